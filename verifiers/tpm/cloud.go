package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm-tools/server"

	"github.com/assay-project/assay/attest"
)

// oidGCEInstance is Google's extension that names a Compute Engine instance.
var oidGCEInstance = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}

// azureSuffix ends the common name of Azure's AK certificates; what is before it
// names the virtual TPM and the kind of its machine.
const azureSuffix = ".Azure.windows.net"

// instanceOf reads the instance that a cloud's AK certificate names.
func instanceOf(provider string, c *x509.Certificate) (*attest.CloudInstance, error) {
	if provider == Azure {
		name, ok := strings.CutSuffix(c.Subject.CommonName, azureSuffix)
		if !ok || name == "" || len(name) > maxTPMName {
			return nil, fmt.Errorf("the common name does not end in %s", azureSuffix)
		}
		return &attest.CloudInstance{Provider: Azure, InstanceID: name}, nil
	}
	n := 0
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidGCEInstance) {
			continue
		}
		n++
		var outer asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &outer); err != nil || len(rest) != 0 {
			return nil, errors.New("the instance's extension cannot be read")
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("the instance's extension is there %d times, want once", n)
	}
	// The library returns nothing for an instance that is not of production.
	i, err := server.GetGCEInstanceInfo(c)
	if err != nil {
		return nil, fmt.Errorf("the instance's extension cannot be read: %w", err)
	}
	if i == nil {
		return nil, errors.New("the instance is not one of production")
	}
	if i.GetProjectId() == "" || i.GetZone() == "" || i.GetInstanceId() == 0 {
		return nil, errors.New("the certificate leaves project, zone or instance out")
	}
	return &attest.CloudInstance{
		Provider: GCE, ProjectID: i.GetProjectId(), ProjectNumber: i.GetProjectNumber(), Zone: i.GetZone(),
		InstanceID: fmt.Sprint(i.GetInstanceId()), InstanceName: i.GetInstanceName(),
	}, nil
}
