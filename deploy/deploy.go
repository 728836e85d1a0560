// Package deploy is what a node needs to run husk for Kubernetes. `husk install` writes the engines' files from here.
package deploy

import "embed"

// Files are the drop-ins.
//
//go:embed containerd/*.toml crio/*.conf
var Files embed.FS
