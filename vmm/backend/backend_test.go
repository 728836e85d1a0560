package backend

import (
	"strings"
	"testing"
)

func TestAWishThatCannotBeNamesWhatIsMissing(t *testing.T) {
	const none = "/no/such/"
	for _, c := range []struct {
		wish Wish
		want []string
	}{
		{Wish{Kind: KVM, Device: none + "kvm"}, []string{`vmm = "kvm"`}},
		{Wish{Kind: QEMU, QEMU: none + "qemu"}, []string{none + "qemu"}},
		{Wish{Kind: Auto, Device: none + "kvm", QEMU: none + "qemu"}, []string{"neither KVM nor QEMU", none + "qemu"}},
		{Wish{Kind: "xen"}, []string{"xen", "auto", "kvm", "qemu"}},
	} {
		_, err := Choose(c.wish)
		if err == nil {
			t.Errorf("%+v: no error", c.wish)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: error %q lacks %q", c.wish, err, want)
			}
		}
	}
}
