-- +goose Up

-- The first schema is number 6: what SQLite's first six migrations lead to, so
-- that a number means the same in both. Times are microseconds since 1970, UTC.
-- Text compares by its bytes, whatever the database's locale is.

CREATE TABLE trust_domains (
    trust_domain    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    simulated       BOOLEAN NOT NULL,
    bundle_sequence BIGINT  NOT NULL,
    created_at      BIGINT  NOT NULL
);

CREATE TABLE authorities (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    use          TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    server       TEXT COLLATE "C" NOT NULL,
    key_name     TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    public       BYTEA  NOT NULL,
    not_before   BIGINT NOT NULL,
    not_after    BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, use, id)
);

CREATE TABLE documents (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    kind         TEXT COLLATE "C" NOT NULL,
    sequence     BIGINT NOT NULL,
    body         BYTEA  NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, kind, sequence)
);

CREATE TABLE entries (
    trust_domain    TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    chain           TEXT COLLATE "C" NOT NULL,
    sequence        BIGINT NOT NULL CHECK (sequence > 0),
    hash            BYTEA  NOT NULL,
    payload         BYTEA  NOT NULL,
    at              BIGINT NOT NULL,
    reference       TEXT COLLATE "C" NOT NULL,
    instance        TEXT COLLATE "C" NOT NULL,
    evidence_digest BYTEA  NOT NULL,
    PRIMARY KEY (trust_domain, chain, sequence)
);

CREATE UNIQUE INDEX entries_reference ON entries (trust_domain, reference);
CREATE INDEX entries_instance ON entries (trust_domain, instance, chain, sequence);

-- No serial and no key is in two SVIDs, whichever server's chain they are in.
CREATE TABLE identities (
    trust_domain   TEXT COLLATE "C" NOT NULL,
    serial         TEXT COLLATE "C" NOT NULL,
    chain          TEXT COLLATE "C" NOT NULL,
    sequence       BIGINT  NOT NULL,
    position       INTEGER NOT NULL,
    spiffe_id      TEXT COLLATE "C" NOT NULL,
    key_thumbprint BYTEA   NOT NULL,
    not_after      BIGINT  NOT NULL,
    PRIMARY KEY (trust_domain, serial),
    FOREIGN KEY (trust_domain, chain, sequence) REFERENCES entries (trust_domain, chain, sequence)
);

CREATE INDEX identities_entry ON identities (trust_domain, chain, sequence);
CREATE INDEX identities_spiffe_id ON identities (trust_domain, spiffe_id, chain, sequence);
CREATE UNIQUE INDEX identities_key ON identities (trust_domain, key_thumbprint);

CREATE TABLE checkpoints (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    chain        TEXT COLLATE "C" NOT NULL,
    size         BIGINT NOT NULL,
    note         BYTEA  NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, chain, size)
);

CREATE TABLE denials (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trust_domain    TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    at              BIGINT NOT NULL,
    reference       TEXT COLLATE "C" NOT NULL,
    instance        TEXT COLLATE "C" NOT NULL,
    evidence_digest BYTEA  NOT NULL,
    payload         BYTEA  NOT NULL
);

CREATE UNIQUE INDEX denials_reference ON denials (trust_domain, reference);
CREATE INDEX denials_at ON denials (trust_domain, at);
CREATE INDEX denials_id ON denials (trust_domain, id);

CREATE TABLE evidence (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BYTEA   NOT NULL,
    platform     TEXT COLLATE "C" NOT NULL,
    instance     TEXT COLLATE "C" NOT NULL,
    denied       BOOLEAN NOT NULL,
    size         BIGINT  NOT NULL,
    body         BYTEA   NOT NULL,
    endorsements BYTEA   NOT NULL, -- CBOR array of byte strings
    at           BIGINT  NOT NULL,
    event_log    BYTEA,            -- NULL for evidence that came without a log
    PRIMARY KEY (trust_domain, digest)
);

CREATE INDEX evidence_at ON evidence (trust_domain, at);
CREATE INDEX evidence_event_log ON evidence (trust_domain, event_log) WHERE event_log IS NOT NULL;

-- Boot event logs, once each: a machine's is the same until its next boot.
CREATE TABLE event_logs (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BYTEA   NOT NULL, -- SHA-256
    denied       BOOLEAN NOT NULL,
    body         BYTEA   NOT NULL,
    PRIMARY KEY (trust_domain, digest)
);

CREATE TABLE certificates (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    serial       TEXT COLLATE "C" NOT NULL,
    der          BYTEA  NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, serial)
);

CREATE INDEX certificates_at ON certificates (trust_domain, at);

-- The policies that were in force, so that a revision only grows.
CREATE TABLE policies (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    name         TEXT COLLATE "C" NOT NULL,
    revision     BIGINT NOT NULL,
    digest       BYTEA  NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, name, revision)
);

-- Every change of the policy in force, and every one that was refused.
CREATE TABLE policy_changes (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    at           BIGINT  NOT NULL,
    source       TEXT COLLATE "C" NOT NULL,
    actor        TEXT COLLATE "C" NOT NULL,
    note         TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    revision     BIGINT  NOT NULL,
    digest       BYTEA   NOT NULL,
    signers      TEXT COLLATE "C" NOT NULL, -- key ids, separated by spaces
    refused      BOOLEAN NOT NULL,
    detail       TEXT COLLATE "C" NOT NULL,
    size         BIGINT  NOT NULL, -- of the document, kept or not
    document     BYTEA             -- as it was given; NULL when it is not kept
);

CREATE INDEX policy_changes_refused ON policy_changes (trust_domain, refused, id);
CREATE INDEX policy_changes_digest ON policy_changes (trust_domain, digest) WHERE NOT refused;

-- Which attestation key was last activated beside an endorsement key, and the
-- TPM's counters then.
CREATE TABLE tpm_bindings (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    ek           BYTEA   NOT NULL, -- SHA-256 of the SubjectPublicKeyInfo
    ak           BYTEA   NOT NULL, -- the key's TPM name
    has_clock    BOOLEAN NOT NULL,
    reset        BIGINT  NOT NULL,
    restart      BIGINT  NOT NULL,
    at           BIGINT  NOT NULL,
    PRIMARY KEY (trust_domain, ek)
);

CREATE INDEX tpm_bindings_at ON tpm_bindings (trust_domain, at);

-- The operator's TPMs.
CREATE TABLE tpm_inventory (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    ek           BYTEA  NOT NULL,
    name         TEXT COLLATE "C" NOT NULL, -- of the group
    note         TEXT COLLATE "C" NOT NULL,
    added_at     BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, ek)
);

CREATE INDEX tpm_inventory_name ON tpm_inventory (trust_domain, name, ek);

-- How often each topic changed: what a server that missed a notification finds
-- out by asking. SQLite, with one server, has no such table.
CREATE TABLE changes (
    trust_domain TEXT COLLATE "C" NOT NULL,
    topic        TEXT COLLATE "C" NOT NULL,
    version      BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, topic)
) WITH (fillfactor = 50);

-- What the ledger says stays said, whoever asks. These keep our own mistakes
-- out: who owns the tables can drop them too, and that is what the hash chain and
-- the checkpoints are for.

-- +goose StatementBegin
CREATE FUNCTION assay_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END
$$;
-- +goose StatementEnd

CREATE TRIGGER entries_stay BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('the ledger is append-only');
CREATE TRIGGER entries_stay_whole BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('the ledger is append-only');
CREATE TRIGGER identities_stay BEFORE UPDATE OR DELETE ON identities
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('the ledger is append-only');
CREATE TRIGGER identities_stay_whole BEFORE TRUNCATE ON identities
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('the ledger is append-only');
CREATE TRIGGER checkpoints_stay BEFORE UPDATE OR DELETE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('the ledger is append-only');
CREATE TRIGGER checkpoints_stay_whole BEFORE TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('the ledger is append-only');

CREATE TRIGGER trust_domains_kind BEFORE UPDATE OF trust_domain, simulated ON trust_domains
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('a trust domain is hardware or simulated for life');
CREATE TRIGGER trust_domains_stay BEFORE DELETE ON trust_domains
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('a trust domain is hardware or simulated for life');
CREATE TRIGGER trust_domains_stay_whole BEFORE TRUNCATE ON trust_domains
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('a trust domain is hardware or simulated for life');
CREATE TRIGGER trust_domains_sequence BEFORE UPDATE OF bundle_sequence ON trust_domains
    FOR EACH ROW WHEN (NEW.bundle_sequence <= OLD.bundle_sequence)
    EXECUTE FUNCTION assay_refuse('the bundle sequence is append-only: it grows');

CREATE TRIGGER authorities_stay BEFORE UPDATE OF trust_domain, use, id, server, key_name, public, not_before, not_after, created_at ON authorities
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('an authority is append-only');
CREATE TRIGGER authorities_no_delete BEFORE DELETE ON authorities
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('an authority is append-only');
CREATE TRIGGER authorities_stay_whole BEFORE TRUNCATE ON authorities
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('an authority is append-only');
CREATE TRIGGER documents_stay BEFORE UPDATE OR DELETE ON documents
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('documents are append-only');
CREATE TRIGGER documents_stay_whole BEFORE TRUNCATE ON documents
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('documents are append-only');

CREATE TRIGGER policies_stay BEFORE UPDATE OR DELETE ON policies
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('policies are append-only');
CREATE TRIGGER policies_stay_whole BEFORE TRUNCATE ON policies
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('policies are append-only');
CREATE TRIGGER policy_changes_stay BEFORE UPDATE ON policy_changes FOR EACH ROW
    WHEN (NEW.document IS NOT NULL OR NEW.id <> OLD.id OR NEW.trust_domain <> OLD.trust_domain OR NEW.at <> OLD.at OR NEW.source <> OLD.source
        OR NEW.actor <> OLD.actor OR NEW.note <> OLD.note OR NEW.name <> OLD.name OR NEW.revision <> OLD.revision OR NEW.digest <> OLD.digest
        OR NEW.signers <> OLD.signers OR NEW.refused <> OLD.refused OR NEW.detail <> OLD.detail OR NEW.size <> OLD.size)
    EXECUTE FUNCTION assay_refuse('policy changes are append-only: a document can only be dropped');
CREATE TRIGGER policy_changes_no_delete BEFORE DELETE ON policy_changes FOR EACH ROW WHEN (NOT OLD.refused)
    EXECUTE FUNCTION assay_refuse('policy changes are append-only');
CREATE TRIGGER policy_changes_stay_whole BEFORE TRUNCATE ON policy_changes
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('policy changes are append-only');
