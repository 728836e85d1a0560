package forward

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	namePort = 53
	// maxQuestions is how many wait for their answers at a time; what comes beyond is lost, and asked again.
	maxQuestions = 256
	answerTime   = 10 * time.Second
	maxMessage   = 1<<16 - 1
)

// NameServer answers at an address of the guest with what the one at upstream answers, from now on.
func NameServer(ip, upstream netip.Addr) error {
	to := netip.AddrPortFrom(upstream, namePort)
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, namePort)))
	if err != nil {
		return fmt.Errorf("be the name server %s: %w", ip, err)
	}
	conns, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, namePort)))
	if err != nil {
		_ = packets.Close()
		return fmt.Errorf("be the name server %s: %w", ip, err)
	}
	go relayPackets(packets, to)
	go relayConns(conns, to)
	return nil
}

func relayPackets(l *net.UDPConn, to netip.AddrPort) {
	slots := make(chan struct{}, maxQuestions)
	buf := make([]byte, maxMessage)
	for {
		n, from, err := l.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		question := append([]byte{}, buf[:n]...)
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		go func() {
			defer func() { <-slots }()
			if answer, err := ask(question, to); err == nil {
				_, _ = l.WriteToUDPAddrPort(answer, from)
			}
		}()
	}
}

func ask(question []byte, to netip.AddrPort) ([]byte, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	answer := make([]byte, maxMessage)
	n, err := conn.Read(answer)
	return answer[:n], err
}

func relayConns(l *net.TCPListener, to netip.AddrPort) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			upstream, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
			if err != nil {
				_ = conn.Close()
				return
			}
			join(conn, upstream)
		}()
	}
}
