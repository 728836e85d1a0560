// Package control is the inside of one husk-vmm process: it serves the VMM API to the client that started it, builds
// the machine from donated descriptors, goes to jail, and lets the guest run.
//
// The process belongs to its client. When the control connection ends, so does the process.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/vmm/backend"
	"github.com/huskvm/husk/vmm/jail"
	"github.com/huskvm/husk/vmm/machine"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/quota"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

// consoleSize is what is kept of the guest's console, from the beginning, where it is wanted live.
const consoleSize = 16 << 20

// Server is the API's service. It lives as long as its process.
type Server struct {
	log       *slog.Logger
	marks     *marks.List
	donations *Donations

	mu      sync.Mutex
	machine *machine.Machine // nil before Boot
	booting bool             // Boot was called, for good or bad
	booted  chan struct{}    // closed once machine runs

	threads threads
}

// Serve serves the API on the control socket until the client is gone. donor is the socket for descriptors.
func Serve(control, donor *os.File, list *marks.List, log *slog.Logger) error {
	conn, err := net.FileConn(control)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	_ = control.Close()
	donations, err := NewDonations(donor)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer donations.Close()
	s := &Server{log: log, marks: list, donations: donations, booted: make(chan struct{})}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	vmmv1.RegisterVMMService(server, s)
	l := newOneConn(conn)
	err = server.Serve(context.Background(), l)
	// The client is gone, and nobody is left to notice if an orderly end hangs.
	time.AfterFunc(3*time.Second, func() { os.Exit(1) })
	_ = server.Close()
	if m := s.running(); m != nil {
		err = errors.Join(ignoreClosed(err), m.Close())
	}
	return ignoreClosed(err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return err
}

// Boot implements the API.
func (s *Server) Boot(_ context.Context, r *vmmv1.BootRequest) (*vmmv1.BootResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.booting {
		return nil, status.Error(codes.FailedPrecondition, "the machine was booted already")
	}
	s.booting = true
	s.marks.Add("boot")
	cfg, workdir, err := s.config(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if workdir != nil {
		defer workdir.Close()
	}
	choice, err := machine.Choose(&cfg, backend.Wish{Kind: backend.Kind(r.GetBackend().GetKind()), QEMU: r.GetBackend().GetQemu()})
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	m, err := machine.New(cfg)
	if err != nil {
		return nil, status.Error(codes.Unknown, err.Error())
	}
	err = jail.Enter(workdir)
	s.marks.Add("jailed")
	if err == nil {
		err = m.Start()
	}
	if err != nil {
		return nil, status.Error(codes.Unknown, errors.Join(err, m.Close()).Error())
	}
	s.machine = m
	close(s.booted)
	s.log.Info("guest started", "backend", choice.Kind, "reason", choice.Reason)
	return &vmmv1.BootResponse{Backend: string(choice.Kind), Reason: choice.Reason}, nil
}

// config takes the request's descriptors. The directory is where the guest's vsock connections go to. On error all are closed.
func (s *Server) config(r *vmmv1.BootRequest) (cfg machine.Config, workdir *os.File, err error) {
	var taken []*os.File
	take := func(token uint32) *os.File {
		f, takeErr := s.donations.Take(token)
		err = errors.Join(err, takeErr)
		taken = append(taken, f)
		return f
	}
	defer func() {
		if err != nil {
			for _, f := range taken {
				_ = f.Close() // some are nil
			}
		}
	}()
	cfg = machine.Config{
		Kernel: take(r.GetKernel()), Initramfs: take(r.GetInitramfs()),
		VCPUs: int(r.GetVcpus()), Memory: r.GetMemoryBytes(), Cmdline: r.GetCmdline(),
		VhostNet: r.GetVhostNet(),
		Log:      s.log, Marks: s.marks,
	}
	if v := r.GetVsock(); v != nil {
		workdir = take(v.GetDirectory())
		cfg.Vsock = &machine.Vsock{GuestCID: v.GetGuestCid(), Host: vsock.UnixHost(vsock.SocketName)}
	}
	for _, share := range r.GetShares() {
		cfg.Shares = append(cfg.Shares, shareOf(share, take(share.GetFd())))
	}
	for _, disk := range r.GetDisks() {
		cfg.Disks = append(cfg.Disks, diskOf(disk, take(disk.GetFd())))
	}
	cfg.SpareDisks = int(r.GetSpareDisks())
	for _, nic := range r.GetNics() {
		if nic.GetMtu() > math.MaxUint16 {
			err = errors.Join(err, fmt.Errorf("MTU %d of a network interface is more than %d", nic.GetMtu(), math.MaxUint16))
		}
		n := machine.NIC{MAC: nic.GetMac(), MTU: uint16(nic.GetMtu())}
		for _, tap := range nic.GetTaps() {
			n.Taps = append(n.Taps, take(tap))
		}
		cfg.NICs = append(cfg.NICs, n)
	}
	if f := take(r.GetConsole().GetOutput()); f != nil {
		cfg.Console = quota.NewWriter(f, consoleSize, "\nthe console's log is full: nothing more is written to it\n")
	}
	return cfg, workdir, err
}

// Wait implements the API.
func (s *Server) Wait(ctx context.Context, _ *vmmv1.WaitRequest) (*vmmv1.WaitResponse, error) {
	select {
	case <-s.booted:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m := s.running()
	select {
	case <-m.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	end := m.End()
	s.log.Info("guest ended", "reason", end.Reason.String(), "detail", end.Detail)
	return &vmmv1.WaitResponse{Reason: reason(end.Reason), Detail: end.String(), ConsoleTail: m.ConsoleTail()}, nil
}

// reason sorts the ways a guest can end. A triple fault counts as a restart: where there is no other, it is one.
func reason(r vcpu.Reason) vmmv1.WaitResponse_Reason {
	switch r {
	case vcpu.PowerOff, vcpu.Reset, vcpu.TripleFault:
		return vmmv1.WaitResponse_REASON_SHUTDOWN
	case vcpu.Crashed:
		return vmmv1.WaitResponse_REASON_CRASH
	case vcpu.Killed:
		return vmmv1.WaitResponse_REASON_KILLED
	default:
		return vmmv1.WaitResponse_REASON_VMM
	}
}

// Crowded implements the API.
func (s *Server) Crowded(ctx context.Context, _ *vmmv1.CrowdedRequest) (*vmmv1.CrowdedResponse, error) {
	m := s.running()
	if m == nil {
		return nil, status.Error(codes.FailedPrecondition, "the machine is not booted")
	}
	select {
	case <-m.Crowded():
		return &vmmv1.CrowdedResponse{}, nil
	case <-m.Done():
		return nil, status.Error(codes.Unavailable, "the guest has ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pause implements the API.
func (s *Server) Pause(context.Context, *vmmv1.PauseRequest) (*vmmv1.PauseResponse, error) {
	return &vmmv1.PauseResponse{}, s.with((*machine.Machine).Pause)
}

// Resume implements the API.
func (s *Server) Resume(context.Context, *vmmv1.ResumeRequest) (*vmmv1.ResumeResponse, error) {
	return &vmmv1.ResumeResponse{}, s.with((*machine.Machine).Resume)
}

// Info implements the API.
func (s *Server) Info(context.Context, *vmmv1.InfoRequest) (*vmmv1.InfoResponse, error) {
	r := &vmmv1.InfoResponse{}
	for _, m := range s.marks.All() {
		r.Marks = append(r.Marks, &vmmv1.Mark{Name: m.Name, Nanoseconds: m.Nanoseconds})
	}
	if m := s.running(); m != nil {
		r.Exits, r.ConsoleTail = m.Exits(), m.ConsoleTail()
	}
	return r, nil
}

func (s *Server) running() *machine.Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine
}

func (s *Server) with(do func(*machine.Machine) error) error {
	m := s.running()
	if m == nil {
		return status.Error(codes.FailedPrecondition, "the machine is not booted")
	}
	err := do(m)
	if _, ok := status.FromError(err); !ok {
		return status.Error(codes.Unknown, err.Error())
	}
	return err
}
