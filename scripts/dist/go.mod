// What makes releases: a module of its own, so that it chooses no version of the
// product's.
module github.com/assay-project/assay/scripts/dist

go 1.26.0

require github.com/CycloneDX/cyclonedx-go v0.9.3
