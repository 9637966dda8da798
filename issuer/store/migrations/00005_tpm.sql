-- +goose Up

-- Which attestation key was last activated beside an endorsement key, and the
-- TPM's counters then.
CREATE TABLE tpm_bindings (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    ek           BLOB    NOT NULL, -- SHA-256 of the SubjectPublicKeyInfo
    ak           BLOB    NOT NULL, -- the key's TPM name
    has_clock    INTEGER NOT NULL CHECK (has_clock IN (0, 1)),
    reset        INTEGER NOT NULL,
    restart      INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, ek)
) STRICT;

CREATE INDEX tpm_bindings_at ON tpm_bindings (trust_domain, at);

-- The operator's TPMs.
CREATE TABLE tpm_inventory (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    ek           BLOB    NOT NULL,
    name         TEXT    NOT NULL, -- of the group
    note         TEXT    NOT NULL,
    added_at     INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, ek)
) STRICT;

CREATE INDEX tpm_inventory_name ON tpm_inventory (trust_domain, name, ek);

-- Boot event logs, once each: a machine's is the same until its next boot.
CREATE TABLE event_logs (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BLOB    NOT NULL, -- SHA-256
    denied       INTEGER NOT NULL CHECK (denied IN (0, 1)),
    body         BLOB    NOT NULL,
    PRIMARY KEY (trust_domain, digest)
) STRICT;

-- NULL for evidence that came without a log.
ALTER TABLE evidence ADD COLUMN event_log BLOB;

CREATE INDEX evidence_event_log ON evidence (trust_domain, event_log) WHERE event_log IS NOT NULL;
