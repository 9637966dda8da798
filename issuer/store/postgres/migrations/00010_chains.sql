-- +goose Up

-- What an entry is a record of: issuances are looked for among entries of other
-- kinds. Like the other columns it repeats a part of the payload.
ALTER TABLE entries ADD COLUMN outcome TEXT COLLATE "C" NOT NULL DEFAULT 'granted';

CREATE INDEX entries_outcome ON entries (trust_domain, chain, outcome, sequence);

-- Which server put a policy into force, and its word for it: by that other
-- servers take it over. Both are empty in rows of before, and of refusals.
ALTER TABLE policy_changes ADD COLUMN server TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE policy_changes ADD COLUMN signature BYTEA NOT NULL DEFAULT '';

DROP TRIGGER policy_changes_stay ON policy_changes;
CREATE TRIGGER policy_changes_stay BEFORE UPDATE ON policy_changes FOR EACH ROW
    WHEN (NEW.document IS NOT NULL OR NEW.id <> OLD.id OR NEW.trust_domain <> OLD.trust_domain OR NEW.at <> OLD.at OR NEW.source <> OLD.source
        OR NEW.actor <> OLD.actor OR NEW.note <> OLD.note OR NEW.name <> OLD.name OR NEW.revision <> OLD.revision OR NEW.digest <> OLD.digest
        OR NEW.signers <> OLD.signers OR NEW.refused <> OLD.refused OR NEW.detail <> OLD.detail OR NEW.size <> OLD.size
        OR NEW.server <> OLD.server OR NEW.signature <> OLD.signature)
    EXECUTE FUNCTION assay_refuse('policy changes are append-only: a document can only be dropped');
