-- +goose Up

-- What an entry is a record of: issuances are looked for among entries of other
-- kinds. Like the other columns it repeats a part of the payload.
ALTER TABLE entries ADD COLUMN outcome TEXT NOT NULL DEFAULT 'granted';

CREATE INDEX entries_outcome ON entries (trust_domain, chain, outcome, sequence);
