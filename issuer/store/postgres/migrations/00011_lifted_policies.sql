-- +goose Up

-- A denied policy can be taken off the deny-list again, and denied again after
-- that: each time is a row of its own, which is never deleted, but lifted, once.
ALTER TABLE denied_policies ADD COLUMN turn        BIGINT NOT NULL DEFAULT 1; -- 1 for the first time that it was denied
ALTER TABLE denied_policies ADD COLUMN lifted_at   BIGINT NOT NULL DEFAULT 0; -- 0 while nobody lifted it
ALTER TABLE denied_policies ADD COLUMN lifted_by   TEXT   NOT NULL DEFAULT '';
ALTER TABLE denied_policies ADD COLUMN lift_reason TEXT   NOT NULL DEFAULT '';

ALTER TABLE denied_policies DROP CONSTRAINT denied_policies_pkey;
ALTER TABLE denied_policies ADD PRIMARY KEY (trust_domain, digest, turn);
CREATE UNIQUE INDEX denied_policies_standing ON denied_policies (trust_domain, digest) WHERE lifted_at = 0;

DROP TRIGGER denied_policies_stay ON denied_policies;
CREATE TRIGGER denied_policies_stay BEFORE UPDATE ON denied_policies FOR EACH ROW
    WHEN (OLD.lifted_at <> 0 OR NEW.lifted_at = 0 OR NEW.trust_domain <> OLD.trust_domain OR NEW.digest <> OLD.digest OR NEW.turn <> OLD.turn
        OR NEW.reason <> OLD.reason OR NEW.actor <> OLD.actor OR NEW.at <> OLD.at)
    EXECUTE FUNCTION assay_refuse('denied policies are append-only: one can only be lifted, once');
CREATE TRIGGER denied_policies_no_delete BEFORE DELETE ON denied_policies
    FOR EACH ROW EXECUTE FUNCTION assay_refuse('denied policies are append-only');

-- Lists of who holds what begin with the newest, a page at a time. Who attested last
-- is told from the second index alone: in the table a row's payload comes before its
-- time.
CREATE INDEX entries_at ON entries (trust_domain, at);
CREATE INDEX entries_instance_at ON entries (trust_domain, instance, at, chain, sequence);
