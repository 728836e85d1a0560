package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// What operations have in common.
const (
	onRoot  = 1 << iota // the synthetic root answers it too
	writes              // refused in a read-only share, and by the root
	noNode              // the header's node doesn't matter
	noReply             // there is none, not even an error
)

// op is one operation.
type op struct {
	run   func(*call) unix.Errno
	is    int
	reply int // least room for the reply after its header; what is longer bounds itself by the room there is
	args  int // copy no more of the arguments than this; 0 is all
}

// rootErrno is the root's answer to an operation it doesn't have.
func (o op) rootErrno() unix.Errno {
	if o.is&writes != 0 {
		return unix.EROFS
	}
	return unix.EINVAL
}

// ops are the operations there are. What is missing gets ENOSYS, and the client doesn't ask again: locks (its
// kernel keeps them), BMAP, POLL, DAX mappings.
var ops = [fuse.NumOpcodes]op{
	fuse.Init:        {run: (*call).init, is: noNode, reply: fuse.InitOutSize},
	fuse.Destroy:     {run: (*call).destroy, is: noNode},
	fuse.Interrupt:   {run: (*call).interrupt, is: noNode | noReply},
	fuse.Forget:      {run: (*call).forget, is: noNode | noReply},
	fuse.BatchForget: {run: (*call).batchForget, is: noNode | noReply},

	fuse.Lookup:   {run: (*call).lookup, is: onRoot, reply: fuse.EntryOutSize},
	fuse.Getattr:  {run: (*call).getattr, is: onRoot, reply: fuse.AttrOutSize},
	fuse.Statx:    {run: (*call).statx, is: onRoot, reply: fuse.StatxOutSize},
	fuse.Setattr:  {run: (*call).setattr, is: writes, reply: fuse.AttrOutSize},
	fuse.Access:   {run: (*call).access, is: onRoot},
	fuse.Readlink: {run: (*call).readlink},
	fuse.Statfs:   {run: (*call).statfs, is: onRoot, reply: fuse.StatfsOutSize},
	fuse.Syncfs:   {run: (*call).syncfs, is: onRoot},

	fuse.Create:  {run: (*call).create, is: writes, reply: fuse.EntryOutSize + fuse.OpenOutSize},
	fuse.Tmpfile: {run: (*call).tmpfile, is: writes, reply: fuse.EntryOutSize + fuse.OpenOutSize},
	fuse.Mknod:   {run: (*call).mknod, is: writes, reply: fuse.EntryOutSize},
	fuse.Mkdir:   {run: (*call).mkdir, is: writes, reply: fuse.EntryOutSize},
	fuse.Symlink: {run: (*call).symlink, is: writes, reply: fuse.EntryOutSize},
	fuse.Link:    {run: (*call).link, is: writes, reply: fuse.EntryOutSize},
	fuse.Unlink:  {run: (*call).unlink, is: writes},
	fuse.Rmdir:   {run: (*call).rmdir, is: writes},
	fuse.Rename:  {run: (*call).rename, is: writes},
	fuse.Rename2: {run: (*call).rename2, is: writes},

	fuse.Open:          {run: (*call).open, reply: fuse.OpenOutSize},
	fuse.Read:          {run: (*call).read},
	fuse.Write:         {run: (*call).write, is: writes, reply: fuse.WriteOutSize, args: fuse.WriteInSize},
	fuse.Flush:         {run: (*call).flush},
	fuse.Fsync:         {run: (*call).fsync},
	fuse.Release:       {run: (*call).release},
	fuse.Fallocate:     {run: (*call).fallocate, is: writes},
	fuse.Lseek:         {run: (*call).lseek, reply: fuse.LseekOutSize},
	fuse.CopyFileRange: {run: (*call).copyFileRange, reply: fuse.WriteOutSize},
	fuse.Ioctl:         {run: (*call).ioctl, is: onRoot},

	fuse.Opendir:     {run: (*call).opendir, is: onRoot, reply: fuse.OpenOutSize},
	fuse.Readdir:     {run: (*call).readdir, is: onRoot},
	fuse.Readdirplus: {run: (*call).readdirplus, is: onRoot},
	fuse.Releasedir:  {run: (*call).release, is: onRoot},
	fuse.Fsyncdir:    {run: (*call).fsync, is: onRoot},

	fuse.Getxattr:    {run: (*call).getxattr, is: onRoot},
	fuse.Listxattr:   {run: (*call).listxattr, is: onRoot},
	fuse.Setxattr:    {run: (*call).setxattr, is: writes},
	fuse.Removexattr: {run: (*call).removexattr, is: writes},
}
