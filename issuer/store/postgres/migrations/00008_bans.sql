-- +goose Up

-- Who is to hold no identity any more. A ban is never deleted: it is lifted, once.
CREATE TABLE bans (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    ban          TEXT COLLATE "C" NOT NULL, -- its ID
    kind         TEXT COLLATE "C" NOT NULL CHECK (kind IN ('instance', 'hardware', 'expr', 'spiffe_id')),
    value        TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    actor        TEXT   NOT NULL,
    since        BIGINT NOT NULL,
    until        BIGINT NOT NULL, -- 0 is never
    lifted_at    BIGINT NOT NULL, -- 0 while nobody lifted it
    lifted_by    TEXT   NOT NULL,
    lift_reason  TEXT   NOT NULL,
    PRIMARY KEY (trust_domain, ban)
);

-- SVIDs that were taken back before their end, by themselves or with a ban.
CREATE TABLE revocations (
    trust_domain   TEXT COLLATE "C" NOT NULL,
    serial         TEXT COLLATE "C" NOT NULL,
    ban            TEXT COLLATE "C" NOT NULL, -- empty: by itself
    key_thumbprint BYTEA  NOT NULL,
    not_after      BIGINT NOT NULL,
    reason         TEXT   NOT NULL,
    actor          TEXT   NOT NULL,
    at             BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, serial, ban),
    FOREIGN KEY (trust_domain, serial) REFERENCES identities (trust_domain, serial)
);

CREATE INDEX revocations_not_after ON revocations (trust_domain, not_after);

-- Policies whose results are not to be accepted.
CREATE TABLE denied_policies (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BYTEA  NOT NULL,
    reason       TEXT   NOT NULL,
    actor        TEXT   NOT NULL,
    at           BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, digest)
);

-- The newest signed deny-list: it can be made again at any time, and its sequence
-- only grows.
CREATE TABLE deny_lists (
    trust_domain TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES trust_domains (trust_domain),
    sequence     BIGINT NOT NULL,
    body         BYTEA  NOT NULL,
    at           BIGINT NOT NULL
);

-- What has not ended yet: asked when somebody is banned.
CREATE INDEX identities_not_after ON identities (trust_domain, not_after);

CREATE TRIGGER bans_stay BEFORE UPDATE ON bans FOR EACH ROW
    WHEN (OLD.lifted_at <> 0 OR NEW.lifted_at = 0 OR NEW.trust_domain <> OLD.trust_domain OR NEW.ban <> OLD.ban OR NEW.kind <> OLD.kind
        OR NEW.value <> OLD.value OR NEW.reason <> OLD.reason OR NEW.actor <> OLD.actor OR NEW.since <> OLD.since OR NEW.until <> OLD.until)
    EXECUTE FUNCTION assay_refuse('bans are append-only: one can only be lifted, once');
CREATE TRIGGER bans_no_delete BEFORE DELETE ON bans
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('bans are append-only');
CREATE TRIGGER bans_stay_whole BEFORE TRUNCATE ON bans
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('bans are append-only');
CREATE TRIGGER revocations_stay BEFORE UPDATE OR DELETE ON revocations
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('revocations are append-only');
CREATE TRIGGER revocations_stay_whole BEFORE TRUNCATE ON revocations
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('revocations are append-only');
CREATE TRIGGER denied_policies_stay BEFORE UPDATE OR DELETE ON denied_policies
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('denied policies are append-only');
CREATE TRIGGER denied_policies_stay_whole BEFORE TRUNCATE ON denied_policies
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('denied policies are append-only');
CREATE TRIGGER deny_lists_grow BEFORE UPDATE ON deny_lists FOR EACH ROW
    WHEN (NEW.trust_domain <> OLD.trust_domain OR NEW.sequence <= OLD.sequence)
    EXECUTE FUNCTION assay_refuse('the sequence of deny-lists only grows');
CREATE TRIGGER deny_lists_no_delete BEFORE DELETE ON deny_lists
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('the sequence of deny-lists only grows');
CREATE TRIGGER deny_lists_stay BEFORE TRUNCATE ON deny_lists
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('the sequence of deny-lists only grows');
