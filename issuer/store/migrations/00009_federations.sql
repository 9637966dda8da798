-- +goose Up

-- How bundles of other trust domains are had, and the last one of each. Times
-- that are not known are 0.
CREATE TABLE federations (
    trust_domain  TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    name          TEXT    NOT NULL, -- of the foreign trust domain
    version       INTEGER NOT NULL,
    url           TEXT    NOT NULL,
    profile       TEXT    NOT NULL,
    endpoint_id   TEXT    NOT NULL,
    web_roots     BLOB    NOT NULL,
    set_at        INTEGER NOT NULL,
    set_by        TEXT    NOT NULL,
    set_server    TEXT    NOT NULL,
    set_seal      BLOB    NOT NULL, -- of that server, over what was set
    bundle        BLOB    NOT NULL, -- as it came; empty before the first
    fetched_at    INTEGER NOT NULL,
    bundle_server TEXT    NOT NULL,
    bundle_seal   BLOB    NOT NULL, -- of that server, over the bundle
    next_at       INTEGER NOT NULL,
    checked_at    INTEGER NOT NULL,
    failures      INTEGER NOT NULL,
    error         TEXT    NOT NULL,
    PRIMARY KEY (trust_domain, name)
) STRICT;

-- How often the list changed: a row that is deleted takes its version along.
CREATE TABLE federation_revisions (
    trust_domain TEXT    NOT NULL PRIMARY KEY REFERENCES trust_domains (trust_domain),
    revision     INTEGER NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER federation_revisions_grow BEFORE UPDATE ON federation_revisions WHEN NEW.revision <= OLD.revision OR NEW.trust_domain <> OLD.trust_domain
BEGIN SELECT RAISE(ABORT, 'the revision of the federations only grows'); END;
-- +goose StatementEnd
