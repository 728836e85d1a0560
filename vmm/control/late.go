package control

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/vmm/machine"
)

// give is with, for what takes a donated file over.
func (s *Server) give(token uint32, do func(*machine.Machine, *os.File) error) error {
	f, err := s.donations.Take(token)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	given := false
	err = s.with(func(m *machine.Machine) error {
		given = true
		return do(m, f)
	})
	if !given {
		_ = f.Close()
	}
	return err
}

func shareOf(s *vmmv1.Share, f *os.File) machine.Share {
	return machine.Share{Name: s.GetName(), File: f, ReadOnly: s.GetReadOnly(), Inline: s.GetInline(), Root: s.GetRoot()}
}

// AddShare implements the API.
func (s *Server) AddShare(_ context.Context, r *vmmv1.AddShareRequest) (*vmmv1.AddShareResponse, error) {
	return &vmmv1.AddShareResponse{}, s.give(r.GetShare().GetFd(), func(m *machine.Machine, f *os.File) error {
		return m.AddShare(shareOf(r.GetShare(), f))
	})
}

// RemoveShare implements the API.
func (s *Server) RemoveShare(_ context.Context, r *vmmv1.RemoveShareRequest) (*vmmv1.RemoveShareResponse, error) {
	return &vmmv1.RemoveShareResponse{}, s.with(func(m *machine.Machine) error { return m.RemoveShare(r.GetName()) })
}

func diskOf(d *vmmv1.Disk, f *os.File) machine.Disk {
	return machine.Disk{Serial: d.GetSerial(), File: f, ReadOnly: d.GetReadOnly()}
}

// AddDisk implements the API.
func (s *Server) AddDisk(_ context.Context, r *vmmv1.AddDiskRequest) (*vmmv1.AddDiskResponse, error) {
	return &vmmv1.AddDiskResponse{}, s.give(r.GetDisk().GetFd(), func(m *machine.Machine, f *os.File) error {
		err := m.AddDisk(diskOf(r.GetDisk(), f))
		if errors.Is(err, machine.ErrNoRoom) {
			return status.Error(codes.ResourceExhausted, err.Error())
		}
		return err
	})
}

// RemoveDisk implements the API.
func (s *Server) RemoveDisk(_ context.Context, r *vmmv1.RemoveDiskRequest) (*vmmv1.RemoveDiskResponse, error) {
	return &vmmv1.RemoveDiskResponse{}, s.with(func(m *machine.Machine) error { return m.RemoveDisk(r.GetSerial()) })
}

// AddThread implements the API.
func (s *Server) AddThread(context.Context, *vmmv1.AddThreadRequest) (*vmmv1.AddThreadResponse, error) {
	return &vmmv1.AddThreadResponse{Id: uint32(s.threads.add())}, nil
}

// RemoveThread implements the API.
func (s *Server) RemoveThread(_ context.Context, r *vmmv1.RemoveThreadRequest) (*vmmv1.RemoveThreadResponse, error) {
	if !s.threads.remove(int(r.GetId())) {
		return nil, status.Errorf(codes.NotFound, "there is no thread %d that stands for a container", r.GetId())
	}
	return &vmmv1.RemoveThreadResponse{}, nil
}
