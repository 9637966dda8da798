-- +goose Up

-- Every change of the policy in force, and every one that was refused: what,
-- when, by whom and from where. policies stays what keeps a revision from coming
-- back; this is what was in it.
CREATE TABLE policy_changes (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    trust_domain TEXT    NOT NULL REFERENCES trust_domains (trust_domain),
    at           INTEGER NOT NULL,
    source       TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    note         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    revision     INTEGER NOT NULL,
    digest       BLOB    NOT NULL,
    signers      TEXT    NOT NULL, -- key ids, separated by spaces
    refused      INTEGER NOT NULL CHECK (refused IN (0, 1)),
    detail       TEXT    NOT NULL,
    size         INTEGER NOT NULL, -- of the document, kept or not
    document     BLOB              -- as it was given, signed or plain; NULL when it is not kept
) STRICT;

CREATE INDEX policy_changes_refused ON policy_changes (trust_domain, refused, id);
CREATE INDEX policy_changes_digest ON policy_changes (trust_domain, digest) WHERE refused = 0;

-- +goose StatementBegin
CREATE TRIGGER policy_changes_no_update BEFORE UPDATE ON policy_changes
WHEN NEW.document IS NOT NULL OR NEW.id <> OLD.id OR NEW.trust_domain <> OLD.trust_domain OR NEW.at <> OLD.at OR NEW.source <> OLD.source
    OR NEW.actor <> OLD.actor OR NEW.note <> OLD.note OR NEW.name <> OLD.name OR NEW.revision <> OLD.revision OR NEW.digest <> OLD.digest
    OR NEW.signers <> OLD.signers OR NEW.refused <> OLD.refused OR NEW.detail <> OLD.detail OR NEW.size <> OLD.size
BEGIN SELECT RAISE(ABORT, 'policy changes are append-only: a document can only be dropped'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER policy_changes_no_delete BEFORE DELETE ON policy_changes WHEN OLD.refused = 0
BEGIN SELECT RAISE(ABORT, 'policy changes are append-only'); END;
-- +goose StatementEnd

-- The newest issuances of one instance, without a walk over everybody's: asked
-- for each watching agent when the policy changes.
DROP INDEX entries_instance;
CREATE INDEX entries_instance ON entries (trust_domain, instance, chain, sequence);
