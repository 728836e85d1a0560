package mmio

// Registers (virtio 1.2 §4.2.2).
const (
	regMagicValue        = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regSHMLenLow         = 0x0b0
	regSHMLenHigh        = 0x0b4
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100
)

const (
	magicValue = 0x74726976 // "virt"
	version    = 2
	vendorID   = 0x6b737568 // "husk"

	// WindowSize is the size of a transport's register window, configuration space included.
	WindowSize = 0x1000
	// NotifyOffset is where the driver writes a queue's index to kick it.
	NotifyOffset = regQueueNotify
)

const (
	interruptQueue  = 1 << 0
	interruptConfig = 1 << 1
)

// Device status (virtio 1.2 §2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128
)

// phase is how far a driver has come; each allows its own registers to be written.
type phase uint8

const (
	phaseReset    phase = 0
	phaseFound    phase = statusAcknowledge
	phaseFeatures phase = phaseFound | statusDriver
	phaseQueues   phase = phaseFeatures | statusFeaturesOK
	phaseRunning  phase = phaseQueues | statusDriverOK
)

// nextPhase is the only order in which a driver may come up (virtio 1.2 §3.1.1).
var nextPhase = map[phase]phase{
	phaseReset:    phaseFound,
	phaseFound:    phaseFeatures,
	phaseFeatures: phaseQueues,
	phaseQueues:   phaseRunning,
}
