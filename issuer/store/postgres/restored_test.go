package postgres_test

import (
	"testing"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/storetest"
)

func TestARestoredPostgreSQLIsNumberedOn(t *testing.T) {
	c := cluster(t)
	storetest.RunRestored(t, func(t *testing.T) store.Store { return open(t, c.Database(t)) })
}
