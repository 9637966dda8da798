-- +goose Up

-- A denied policy can be taken off the deny-list again, and denied again after
-- that: each time is a row of its own, which is never deleted, but lifted, once.
-- SQLite cannot change a primary key, so that the rows move to a new table.
CREATE TABLE denied_policies_turns (
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    digest       BLOB    NOT NULL,
    turn         INTEGER NOT NULL, -- 1 for the first time that it was denied
    reason       TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    lifted_at    INTEGER NOT NULL, -- 0 while nobody lifted it
    lifted_by    TEXT    NOT NULL,
    lift_reason  TEXT    NOT NULL,
    PRIMARY KEY (trust_domain, digest, turn)
) STRICT;

INSERT INTO denied_policies_turns SELECT trust_domain, digest, 1, reason, actor, at, 0, '', '' FROM denied_policies;
DROP TABLE denied_policies;
ALTER TABLE denied_policies_turns RENAME TO denied_policies;

CREATE UNIQUE INDEX denied_policies_standing ON denied_policies (trust_domain, digest) WHERE lifted_at = 0;

-- +goose StatementBegin
CREATE TRIGGER denied_policies_no_update BEFORE UPDATE ON denied_policies
WHEN OLD.lifted_at <> 0 OR NEW.lifted_at = 0 OR NEW.trust_domain <> OLD.trust_domain OR NEW.digest <> OLD.digest OR NEW.turn <> OLD.turn
    OR NEW.reason <> OLD.reason OR NEW.actor <> OLD.actor OR NEW.at <> OLD.at
BEGIN SELECT RAISE(ABORT, 'denied policies are append-only: one can only be lifted, once'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER denied_policies_no_delete BEFORE DELETE ON denied_policies
BEGIN SELECT RAISE(ABORT, 'denied policies are append-only'); END;
-- +goose StatementEnd

-- Lists of who holds what begin with the newest, a page at a time. Who attested last
-- is told from the second index alone: in the table a row's payload comes before its
-- time.
CREATE INDEX entries_at ON entries (trust_domain, at);
CREATE INDEX entries_instance_at ON entries (trust_domain, instance, at, chain, sequence);
