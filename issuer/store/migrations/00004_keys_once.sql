-- +goose Up

-- No two SVIDs share a key.
CREATE UNIQUE INDEX identities_key ON identities (trust_domain, key_thumbprint);
