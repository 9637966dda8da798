-- +goose Up

-- The life of authorities, for several servers. A row is signed by the server
-- that owns the key, with its checkpoint key, and says where the authority
-- begins; what becomes of it is a row of authority_changes, signed by the server
-- that says so. members has which servers there are: the bootstrap root endorses
-- each one's checkpoint key. So who can write here cannot name an authority.

ALTER TABLE authorities ADD COLUMN signature BYTEA NOT NULL DEFAULT '';

-- A row of before gets its signature, once; nothing else changes any more.
DROP TRIGGER authorities_stay ON authorities;
CREATE TRIGGER authorities_stay BEFORE UPDATE ON authorities FOR EACH ROW
    WHEN (OLD.signature <> '' OR NEW.trust_domain <> OLD.trust_domain OR NEW.use <> OLD.use OR NEW.id <> OLD.id OR NEW.server <> OLD.server
        OR NEW.key_name <> OLD.key_name OR NEW.state <> OLD.state OR NEW.public <> OLD.public OR NEW.not_before <> OLD.not_before
        OR NEW.not_after <> OLD.not_after OR NEW.created_at <> OLD.created_at)
    EXECUTE FUNCTION assay_refuse('an authority is append-only');

CREATE TABLE authority_changes (
    trust_domain TEXT COLLATE "C" NOT NULL,
    use          TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    server       TEXT COLLATE "C" NOT NULL,
    at           BIGINT NOT NULL,
    ends_at      BIGINT NOT NULL, -- 0 is none
    reason       TEXT   NOT NULL,
    actor        TEXT   NOT NULL,
    body         BYTEA  NOT NULL,
    signature    BYTEA  NOT NULL,
    PRIMARY KEY (trust_domain, use, id, state, server),
    FOREIGN KEY (trust_domain, use, id) REFERENCES authorities (trust_domain, use, id)
);

CREATE TRIGGER authority_changes_stay BEFORE UPDATE OR DELETE ON authority_changes
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('what became of an authority is append-only');
CREATE TRIGGER authority_changes_stay_whole BEFORE TRUNCATE ON authority_changes
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('what became of an authority is append-only');

CREATE TABLE members (
    trust_domain TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    server       TEXT COLLATE "C" NOT NULL,
    endorsement  BYTEA  NOT NULL,
    joined_at    BIGINT NOT NULL,
    PRIMARY KEY (trust_domain, server)
);

CREATE TRIGGER members_stay BEFORE UPDATE OR DELETE ON members
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('members are append-only');
CREATE TRIGGER members_stay_whole BEFORE TRUNCATE ON members
    FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse('members are append-only');
