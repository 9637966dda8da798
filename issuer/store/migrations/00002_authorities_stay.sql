-- +goose Up

-- What the authorities and the documents say stays said; only an authority's
-- state may change. These keep our own mistakes out: who can write the file can
-- drop them too, and that is why issuer/ca believes no row whose key is not there.

-- +goose StatementBegin
CREATE TRIGGER authorities_no_update BEFORE UPDATE OF trust_domain, use, id, server, key_name, public, not_before, not_after, created_at ON authorities
BEGIN SELECT RAISE(ABORT, 'an authority is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER authorities_no_delete BEFORE DELETE ON authorities
BEGIN SELECT RAISE(ABORT, 'an authority is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER documents_no_update BEFORE UPDATE ON documents
BEGIN SELECT RAISE(ABORT, 'documents are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER documents_no_delete BEFORE DELETE ON documents
BEGIN SELECT RAISE(ABORT, 'documents are append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER trust_domains_sequence BEFORE UPDATE OF bundle_sequence ON trust_domains WHEN NEW.bundle_sequence <= OLD.bundle_sequence
BEGIN SELECT RAISE(ABORT, 'the bundle sequence is append-only: it grows'); END;
-- +goose StatementEnd
