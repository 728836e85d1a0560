package agent

import (
	"context"
	"errors"

	"github.com/huskvm/husk/guest-agent/internal/container"
	"github.com/huskvm/husk/guest-agent/internal/process"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// classes are the errors that the host tells apart; any other is Internal.
var classes = []struct {
	err  error
	code codes.Code
}{
	{container.ErrNotFound, codes.NotFound},
	{process.ErrEnded, codes.NotFound},
	{container.ErrExists, codes.AlreadyExists},
	{container.ErrInvalid, codes.InvalidArgument},
	{container.ErrPaused, codes.FailedPrecondition},
	{process.ErrNotPrepared, codes.FailedPrecondition},
	{process.ErrRunning, codes.FailedPrecondition},
	{process.ErrNoTerminal, codes.FailedPrecondition},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// translate makes an error one of the wire.
func translate(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	for _, c := range classes {
		if errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	return status.Error(code, err.Error())
}
