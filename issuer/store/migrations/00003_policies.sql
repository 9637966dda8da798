-- +goose Up

-- The policies that were in force, so that a revision only grows over a restart
-- too.
CREATE TABLE policies (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    name         TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    digest       BLOB    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, name, revision)
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER policies_no_update BEFORE UPDATE ON policies
BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER policies_no_delete BEFORE DELETE ON policies
BEGIN SELECT RAISE(ABORT, 'policies are append-only'); END;
-- +goose StatementEnd
