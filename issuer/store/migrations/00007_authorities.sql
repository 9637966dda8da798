-- +goose Up

-- The life of authorities, for several servers. A row is signed by the server
-- that owns the key, with its checkpoint key, and says where the authority
-- begins; what becomes of it is a row of authority_changes, signed by the server
-- that says so. members has which servers there are: the bootstrap root endorses
-- each one's checkpoint key. So who can write here cannot name an authority.

ALTER TABLE authorities ADD COLUMN signature BLOB NOT NULL DEFAULT x'';

-- A row of before gets its signature, once; nothing else changes any more.
DROP TRIGGER authorities_no_update;
-- +goose StatementBegin
CREATE TRIGGER authorities_no_update BEFORE UPDATE ON authorities
WHEN OLD.signature <> x'' OR NEW.trust_domain <> OLD.trust_domain OR NEW.use <> OLD.use OR NEW.id <> OLD.id OR NEW.server <> OLD.server
    OR NEW.key_name <> OLD.key_name OR NEW.state <> OLD.state OR NEW.public <> OLD.public OR NEW.not_before <> OLD.not_before
    OR NEW.not_after <> OLD.not_after OR NEW.created_at <> OLD.created_at
BEGIN SELECT RAISE(ABORT, 'an authority is append-only'); END;
-- +goose StatementEnd

CREATE TABLE authority_changes (
    trust_domain TEXT    NOT NULL,
    use          TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    server       TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL, -- 0 is none
    reason       TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    body         BLOB    NOT NULL,
    signature    BLOB    NOT NULL,
    PRIMARY KEY (trust_domain, use, id, state, server),
    FOREIGN KEY (trust_domain, use, id) REFERENCES authorities (trust_domain, use, id)
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER authority_changes_no_update BEFORE UPDATE ON authority_changes
BEGIN SELECT RAISE(ABORT, 'what became of an authority is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER authority_changes_no_delete BEFORE DELETE ON authority_changes
BEGIN SELECT RAISE(ABORT, 'what became of an authority is append-only'); END;
-- +goose StatementEnd

CREATE TABLE members (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    server       TEXT    NOT NULL,
    endorsement  BLOB    NOT NULL,
    joined_at    INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, server)
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER members_no_update BEFORE UPDATE ON members
BEGIN SELECT RAISE(ABORT, 'members are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER members_no_delete BEFORE DELETE ON members
BEGIN SELECT RAISE(ABORT, 'members are append-only'); END;
-- +goose StatementEnd
