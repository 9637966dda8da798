// Package kubernetes holds the manifests of Assay, and their tests, which decode
// them strictly into Kubernetes' own types.
package kubernetes
