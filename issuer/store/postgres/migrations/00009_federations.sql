-- +goose Up

-- How bundles of other trust domains are had, and the last one of each. Times
-- that are not known are 0.
CREATE TABLE federations (
    trust_domain  TEXT COLLATE "C" NOT NULL REFERENCES trust_domains (trust_domain),
    name          TEXT COLLATE "C" NOT NULL, -- of the foreign trust domain
    version       BIGINT NOT NULL,
    url           TEXT COLLATE "C" NOT NULL,
    profile       TEXT COLLATE "C" NOT NULL,
    endpoint_id   TEXT COLLATE "C" NOT NULL,
    web_roots     BYTEA  NOT NULL,
    set_at        BIGINT NOT NULL,
    set_by        TEXT COLLATE "C" NOT NULL,
    set_server    TEXT COLLATE "C" NOT NULL,
    set_seal      BYTEA  NOT NULL, -- of that server, over what was set
    bundle        BYTEA  NOT NULL, -- as it came; empty before the first
    fetched_at    BIGINT NOT NULL,
    bundle_server TEXT COLLATE "C" NOT NULL,
    bundle_seal   BYTEA  NOT NULL, -- of that server, over the bundle
    next_at       BIGINT NOT NULL,
    checked_at    BIGINT NOT NULL,
    failures      INTEGER NOT NULL,
    error         TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (trust_domain, name)
);

-- How often the list changed: a row that is deleted takes its version along.
CREATE TABLE federation_revisions (
    trust_domain TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES trust_domains (trust_domain),
    revision     BIGINT NOT NULL
);

CREATE TRIGGER federation_revisions_grow BEFORE UPDATE ON federation_revisions
    FOR EACH ROW WHEN (NEW.revision <= OLD.revision OR NEW.trust_domain <> OLD.trust_domain)
    EXECUTE FUNCTION assay_refuse('the revision of the federations only grows');
