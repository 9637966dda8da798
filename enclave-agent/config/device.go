package config

import (
	"fmt"
	"log/slog"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
)

// Device is the TEE's device.
type Device interface {
	agent.Attester
	agent.Prober
	fmt.Stringer // its path
}

const teeHint = TeeAuto + ", " + string(attest.AWSNitro) + ", " + string(attest.AMDSEVSNP) + " or " + string(attest.TPM2)

// CheckTee wants "auto" or a kind of TEE that this agent attests with.
func CheckTee(tee string) error {
	switch tee {
	case TeeAuto, string(attest.AWSNitro), string(attest.AMDSEVSNP), string(attest.TPM2):
		return nil
	}
	return fmt.Errorf("unknown tee %q, want %s", tee, teeHint)
}

// Attester opens nothing: it returns the device that the configuration names, or
// with tee "auto" the one that is found on this machine. log takes the device's
// warnings. The error is an *attest.Error of check "tee".
func (s *Settings) Attester(log *slog.Logger) (Device, error) { return s.attester("", log) }

// attester looks for devices below another root directory.
func (s *Settings) attester(root string, log *slog.Logger) (Device, error) {
	p, err := s.platform(root)
	if err != nil {
		return nil, err
	}
	c := s.Config
	o := agent.SNPOptions{KDS: s.KDS, Log: log}
	switch {
	case p == attest.AWSNitro && c.Nitro.Socket != "":
		return agent.NewNitroSocket(c.Nitro.Socket), nil
	case p == attest.AWSNitro:
		return agent.NewNitro(c.Nitro.Device), nil
	case p == attest.AMDSEVSNP && c.SNP.Socket != "":
		return agent.NewSNPSocket(c.SNP.Socket, o), nil
	case p == attest.AMDSEVSNP && c.SNP.Device == DeviceAuto:
		return agent.NewSNP(o), nil
	case p == attest.AMDSEVSNP && c.SNP.Device == DeviceConfigFS:
		return agent.NewSNPConfigFS(o), nil
	case p == attest.AMDSEVSNP:
		return agent.NewSNPDevice(c.SNP.Device, o), nil
	case p == attest.TPM2:
		return s.tpm(log), nil
	}
	return nil, &attest.Error{Kind: attest.Internal, Check: "tee", Err: fmt.Errorf("there is no attester for %q", p)}
}

func (s *Settings) platform(root string) (attest.Platform, error) {
	c := s.Config
	switch {
	case c.Tee != TeeAuto:
		return attest.Platform(c.Tee), nil
	case c.Nitro.Socket != "":
		return attest.AWSNitro, nil
	case c.SNP.Socket != "":
		return attest.AMDSEVSNP, nil
	case c.TPM.Socket != "":
		return attest.TPM2, nil
	}
	return agent.Detect(root)
}

func (s *Settings) tpm(log *slog.Logger) *agent.TPM {
	c := s.Config.TPM
	o := agent.TPMOptions{EK: tpmKey(c.EK), AK: tpmKey(c.AK), EventLog: c.EventLog, Log: log}
	if o.EventLog == DeviceAuto {
		o.EventLog = ""
	}
	switch {
	case c.Socket != "":
		return agent.NewTPMSocket(c.Socket, o)
	case c.Device == DeviceAuto:
		return agent.NewTPM(o)
	}
	return agent.NewTPMDevice(c.Device, o)
}

// tpmKey is the kind of a key as package agent has it.
func tpmKey(kind string) agent.TPMKeyKind {
	if kind == DeviceAuto {
		return ""
	}
	return agent.TPMKeyKind(kind)
}

// Agent is the configuration as package agent takes it, with the device that
// [Settings.Attester] returned.
func (s *Settings) Agent(device Device, log *slog.Logger) agent.Config {
	first := s.Memberships[0]
	return agent.Config{
		TrustDomain: first.TrustDomain, Server: first.Server, BootstrapRoots: first.BootstrapRoots, Identities: first.Identities,
		Further: s.Memberships[1:], Attester: device, Socket: s.Config.Socket, SocketMode: s.SocketMode, SocketGroup: s.SocketGroup,
		KeyType: s.KeyType, KeyResidency: s.KeyResidency, Processes: s.Processes, Log: log, NotBefore: s.NotBefore,
	}
}
