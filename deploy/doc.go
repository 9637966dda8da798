// Package deploy holds what Assay is installed with, and its tests:
//
//	systemd/     units, users, the directory of the sockets, udev rules
//	container/   the images
//	kubernetes/  manifests; their tests are a module of its own, for Kubernetes' types
//	nitro/       an enclave image with the agent in it, and its way through the parent
//	grafana/     a dashboard
//	prometheus/  alerts
//	debian/      what the packages' scripts do
package deploy
