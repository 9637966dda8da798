package policy

import "github.com/assay-project/assay/internal/strictyaml"

// keys describes the mappings of the language: the parser refuses every other
// key, and editors learn of them through the schema, see [Schema].
type keys []key

// The tables are never changed. Of tee, the schema adds the platforms.

// key is one key of a mapping.
type key struct {
	name     string
	required bool
	about    string
	value    schema
}

func (ks keys) names() []string {
	out := make([]string, len(ks))
	for i, k := range ks {
		out[i] = k.name
	}
	return out
}

// only reports every key that is none of ks.
func (p *parser) only(n *strictyaml.Node, ks keys) { p.doc.OnlyKeys(n, ks.names()...) }

var bundleKeys = keys{
	{"version", true, "The version of the language.", schema{"const": languageVersion}},
	{"bundle", true, "The name of this policy; attestation results carry bundle@revision.", ref("name")},
	{"revision", true, "A number that grows with every change.", schema{"type": "integer", "minimum": 1, "maximum": maxRevision}},
	{"trust_domain", true, "The trust domain of the identities, without spiffe://.", schema{"type": "string", "pattern": `^[a-z0-9._-]+$`, "maxLength": MaxIDLength - len("spiffe:///x")}},
	{"silence", false, "Codes of warnings that are not wanted about this bundle.", ref("silence")},
	{"references", false, "Named sets of reference values.", schema{"type": "object", "propertyNames": ref("name"), "additionalProperties": ref("reference")}},
	{"workloads", true, "Who gets which identities; [] denies everything.", list(ref("workload"), 0, 0)},
}

var referenceKeys = keys{
	{"dedicated", false, "The values belong to machines on which nobody else's environments run.", schema{"type": "boolean"}},
	{"values", true, "The values.", list(ref("anyEntry"), 1, 0)},
}

var entryKeys = keys{
	{"value", true, "The value, as the claim demands that it is used with.", schema{"type": []string{"string", "integer", "boolean"}}},
	{"not_before", false, "The value is accepted from this moment on.", ref("moment")},
	{"not_after", false, "The value is accepted up to this moment; no SVID that rests on it outlives it.", ref("moment")},
	{"note", false, "A line of text that decisions show.", ref("prose")},
	{"source", false, "Where the value came from.", ref("prose")},
}

var workloadKeys = keys{
	{"name", true, "Unique in the bundle.", ref("name")},
	{"tee", true, "The platform of the evidence.", nil},
	{"mode", true, "enforce grants; audit records and never grants; {rollout: 10%} grants to a share of the hardware.", ref("mode")},
	{"match", true, "The rules: one matcher for each claim. All must hold.", schema{"type": "object", "minProperties": 1}},
	{"expr", false, "An expression (CEL) over the same claims that must be true as well.", schema{"type": "string", "minLength": 1}},
	{"ownership", false, "Why the workload has no ownership predicate, who answers for it, and until when.", ref("ownership")},
	{"waivers", false, "Rules that need not hold for a while.", list(ref("waiver"), 1, maxWaivers)},
	{"max_evidence_age", false, "No SVID ends later than the evidence's time plus this, 1m to 24h; default: x509_ttl.", ref("duration")},
	{"publish", false, "The measurements that attestation results show.", schema{"type": "array", "uniqueItems": true, "items": schema{"type": "string"}}},
	{"silence", false, "Codes of warnings that are not wanted about this workload.", ref("silence")},
	{"issue", false, "The identities; required but in mode audit.", list(ref("identity"), 1, MaxIdentities)},
}

var ownershipKeys = keys{
	{"none", true, "Why there is no ownership predicate.", ref("prose")},
	{"owner", true, "Who answers for it.", ref("prose")},
	{"expires", true, "From this moment on the workload does not match.", ref("date")},
}

var waiverKeys = keys{
	{"rule", true, "The claim whose rule need not hold.", schema{"type": "string"}},
	{"when", false, "Matchers that narrow the waiver: all must hold.", schema{"type": "object", "minProperties": 1}},
	{"reason", true, "Why the rule need not hold.", ref("prose")},
	{"owner", true, "Who answers for it.", ref("prose")},
	{"expires", true, "From this moment on the rule must hold again.", ref("date")},
}

var identityKeys = keys{
	{"spiffe_id", true, "Template of the SPIFFE ID, such as spiffe://{td}/{workload}.", schema{"type": "string", "minLength": 1, "maxLength": maxTemplate}},
	{"x509_ttl", false, "Lifetime of the X.509-SVID, 1m to 24h; default 1h.", ref("duration")},
	{"jwt", false, "Allows JWT-SVIDs.", ref("jwt")},
	{"attributes", false, "Texts that travel in the attestation result.", schema{
		"type": "object", "maxProperties": MaxAttributes, "propertyNames": ref("name"),
		"additionalProperties": schema{"type": "string", "minLength": 1, "maxLength": maxAttribute},
	}},
	{"selectors", false, "Which processes inside the environment get the identity; default: every process.", ref("selectors")},
	{"key_residency", false, "memory, the default, keeps keys and tokens off disks; file lets an agent that is told to write them to one.", schema{"enum": []string{KeysInMemory, KeysInFiles}}},
	{"hint", false, "What the identity is for, such as internal: workloads that have several tell them apart by it.", schema{"type": "string", "pattern": hintPattern}},
}

var jwtKeys = keys{
	{"ttl", false, "Lifetime of a JWT-SVID, 30s to 1h; default 5m.", ref("duration")},
	{"audiences", true, "Who may be shown the JWT-SVID.", schema{
		"type": "array", "minItems": 1, "maxItems": MaxAudiences, "uniqueItems": true,
		"items": schema{"type": "string", "minLength": 1, "maxLength": maxAudience, "pattern": `^[!-~]+$`},
	}},
	{"aws_tags", false, "Attributes of the identity that become AWS session tags.", schema{
		"type": "array", "minItems": 1, "maxItems": MaxAttributes, "uniqueItems": true, "items": ref("name"),
	}},
}

var selectorKeys = keys{
	{"unix", false, "What the kernel tells of the process.", ref("unix")},
	{"systemd", false, "What the service manager tells of it.", ref("systemd")},
	{"docker", false, "What the container engine tells of its container.", ref("docker")},
	{"k8s", false, "What the kubelet tells of its pod.", ref("k8s")},
}

var (
	selectorName   = schema{"type": "string", "minLength": 1, "maxLength": maxSelectorText}
	selectorImage  = schema{"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
	selectorLabels = schema{"type": "object", "minProperties": 1, "maxProperties": maxSelectorLabels, "additionalProperties": selectorName}
)

var systemdKeys = keys{{"unit", true, "The unit, with its suffix: orders.service.", schema{"type": "string", "pattern": `^[^/]+\.(service|scope)$`, "maxLength": maxSelectorText}}}

var dockerKeys = keys{
	{"image_id", false, "The digest of the image's configuration.", selectorImage},
	{"image_digest", false, "The digest of the image in its registry.", selectorImage},
	{"name", false, "The name of the container.", selectorName},
	{"labels", false, "Labels of the container: all must be there.", selectorLabels},
}

var kubernetesKeys = keys{
	{"namespace", true, "The namespace of the pod.", selectorName},
	{"service_account", false, "Its service account.", selectorName},
	{"pod", false, "Its name.", selectorName},
	{"container", false, "The name of the container in it.", selectorName},
	{"image_digest", false, "The digest of the container's image.", selectorImage},
	{"labels", false, "Labels of the pod: all must be there.", selectorLabels},
}

var unixID = schema{"type": "integer", "minimum": 0, "maximum": maxUnixID}

var unixKeys = keys{
	{"uid", false, "The user the process runs as.", unixID},
	{"gid", false, "Its group.", unixID},
	{"supplementary_gids", false, "Further groups: the process must be in all of them.", schema{"type": "array", "minItems": 1, "maxItems": maxSupplementary, "uniqueItems": true, "items": unixID}},
	{"path", false, "The absolute path of its executable.", schema{"type": "string", "pattern": "^/.", "maxLength": maxExecutable}},
	{"sha256", false, "SHA-256 of its executable, in hex.", inHex(executableDigestLen)},
}
