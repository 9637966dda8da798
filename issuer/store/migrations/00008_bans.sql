-- +goose Up

-- Who is to hold no identity any more. A ban is never deleted: it is lifted, once.
CREATE TABLE bans (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    ban          TEXT    NOT NULL, -- its ID
    kind         TEXT    NOT NULL CHECK (kind IN ('instance', 'hardware', 'expr', 'spiffe_id')),
    value        TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    since        INTEGER NOT NULL,
    until        INTEGER NOT NULL, -- 0 is never
    lifted_at    INTEGER NOT NULL, -- 0 while nobody lifted it
    lifted_by    TEXT    NOT NULL,
    lift_reason  TEXT    NOT NULL,
    PRIMARY KEY (trust_domain, ban)
) STRICT;

-- SVIDs that were taken back before their end, by themselves or with a ban.
CREATE TABLE revocations (
    trust_domain   TEXT    NOT NULL,
    serial         TEXT    NOT NULL,
    ban            TEXT    NOT NULL, -- empty: by itself
    key_thumbprint BLOB    NOT NULL,
    not_after      INTEGER NOT NULL,
    reason         TEXT    NOT NULL,
    actor          TEXT    NOT NULL,
    at             INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, serial, ban),
    FOREIGN KEY (trust_domain, serial) REFERENCES identities (trust_domain, serial)
) STRICT;

CREATE INDEX revocations_not_after ON revocations (trust_domain, not_after);

-- Policies whose results are not to be accepted.
CREATE TABLE denied_policies (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BLOB    NOT NULL,
    reason       TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, digest)
) STRICT;

-- The newest signed deny-list: it can be made again at any time, and its sequence
-- only grows.
CREATE TABLE deny_lists (
    trust_domain TEXT    NOT NULL PRIMARY KEY REFERENCES trust_domains (trust_domain),
    sequence     INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    at           INTEGER NOT NULL
) STRICT;

-- What has not ended yet: asked when somebody is banned.
CREATE INDEX identities_not_after ON identities (trust_domain, not_after);

-- +goose StatementBegin
CREATE TRIGGER bans_no_update BEFORE UPDATE ON bans
WHEN OLD.lifted_at <> 0 OR NEW.lifted_at = 0 OR NEW.trust_domain <> OLD.trust_domain OR NEW.ban <> OLD.ban OR NEW.kind <> OLD.kind
    OR NEW.value <> OLD.value OR NEW.reason <> OLD.reason OR NEW.actor <> OLD.actor OR NEW.since <> OLD.since OR NEW.until <> OLD.until
BEGIN SELECT RAISE(ABORT, 'bans are append-only: one can only be lifted, once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER bans_no_delete BEFORE DELETE ON bans
BEGIN SELECT RAISE(ABORT, 'bans are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER revocations_no_update BEFORE UPDATE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER revocations_no_delete BEFORE DELETE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER denied_policies_no_update BEFORE UPDATE ON denied_policies
BEGIN SELECT RAISE(ABORT, 'denied policies are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER denied_policies_no_delete BEFORE DELETE ON denied_policies
BEGIN SELECT RAISE(ABORT, 'denied policies are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER deny_lists_grow BEFORE UPDATE ON deny_lists
WHEN NEW.trust_domain <> OLD.trust_domain OR NEW.sequence <= OLD.sequence
BEGIN SELECT RAISE(ABORT, 'the sequence of deny-lists only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER deny_lists_no_delete BEFORE DELETE ON deny_lists
BEGIN SELECT RAISE(ABORT, 'the sequence of deny-lists only grows'); END;
-- +goose StatementEnd
