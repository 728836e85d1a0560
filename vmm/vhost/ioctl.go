package vhost

// Request numbers, as <linux/vhost.h> makes them with _IO, _IOR and _IOW. The direction bits are those of every
// architecture with a built-in VMM.
const (
	getFeatures  = 0x8008af00
	setFeatures  = 0x4008af00
	setOwner     = 0xaf01
	setMemTable  = 0x4008af03
	setVringNum  = 0x4008af10
	setVringAddr = 0x4028af11
	setVringBase = 0x4008af12
	setVringKick = 0x4008af20
	setVringCall = 0x4008af21
	setVringErr  = 0x4008af22
	setBackend   = 0x4008af30
)
