-- +goose Up

CREATE TABLE trust_domains (
    trust_domain    TEXT    NOT NULL PRIMARY KEY,
    simulated       INTEGER NOT NULL CHECK (simulated IN (0, 1)),
    bundle_sequence INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE authorities (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    use          TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    server       TEXT    NOT NULL,
    key_name     TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    public       BLOB    NOT NULL,
    not_before   INTEGER NOT NULL,
    not_after    INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, use, id)
) STRICT;

CREATE TABLE documents (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    kind         TEXT    NOT NULL,
    sequence     INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, kind, sequence)
) STRICT;

CREATE TABLE entries (
    trust_domain    TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    chain           TEXT    NOT NULL,
    sequence        INTEGER NOT NULL,
    hash            BLOB    NOT NULL,
    payload         BLOB    NOT NULL,
    at              INTEGER NOT NULL,
    reference       TEXT    NOT NULL,
    instance        TEXT    NOT NULL,
    evidence_digest BLOB    NOT NULL,
    PRIMARY KEY (trust_domain, chain, sequence)
) STRICT;

CREATE UNIQUE INDEX entries_reference ON entries (trust_domain, reference);
CREATE INDEX entries_instance ON entries (trust_domain, instance);

CREATE TABLE identities (
    trust_domain   TEXT    NOT NULL,
    serial         TEXT    NOT NULL,
    chain          TEXT    NOT NULL,
    sequence       INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    spiffe_id      TEXT    NOT NULL,
    key_thumbprint BLOB    NOT NULL,
    not_after      INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, serial),
    FOREIGN KEY (trust_domain, chain, sequence) REFERENCES entries (trust_domain, chain, sequence)
) STRICT;

CREATE INDEX identities_entry ON identities (trust_domain, chain, sequence);
CREATE INDEX identities_spiffe_id ON identities (trust_domain, spiffe_id, chain, sequence);

CREATE TABLE checkpoints (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    chain        TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    note         BLOB    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, chain, size)
) STRICT;

CREATE TABLE denials (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    trust_domain    TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    at              INTEGER NOT NULL,
    reference       TEXT    NOT NULL,
    instance        TEXT    NOT NULL,
    evidence_digest BLOB    NOT NULL,
    payload         BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX denials_reference ON denials (trust_domain, reference);
CREATE INDEX denials_at ON denials (trust_domain, at);

CREATE TABLE evidence (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BLOB    NOT NULL,
    platform     TEXT    NOT NULL,
    instance     TEXT    NOT NULL,
    denied       INTEGER NOT NULL CHECK (denied IN (0, 1)),
    size         INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    endorsements BLOB    NOT NULL, -- CBOR array of byte strings
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, digest)
) STRICT;

CREATE INDEX evidence_at ON evidence (trust_domain, at);

CREATE TABLE certificates (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    serial       TEXT    NOT NULL,
    der          BLOB    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, serial)
) STRICT;

CREATE INDEX certificates_at ON certificates (trust_domain, at);

-- What the ledger says stays said, whoever asks. REPLACE deletes too, and fires
-- these only with recursive_triggers, which every connection sets.

-- +goose StatementBegin
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER identities_no_update BEFORE UPDATE ON identities
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER identities_no_delete BEFORE DELETE ON identities
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER trust_domains_kind BEFORE UPDATE OF trust_domain, simulated ON trust_domains
BEGIN SELECT RAISE(ABORT, 'a trust domain is hardware or simulated for life'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER trust_domains_no_delete BEFORE DELETE ON trust_domains
BEGIN SELECT RAISE(ABORT, 'a trust domain is hardware or simulated for life'); END;
-- +goose StatementEnd
