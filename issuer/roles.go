package issuer

import (
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Role is what an administrator may do. Each includes the one before it.
type Role int

// The roles. Who can open the admin socket is an operator.
const (
	NoRole Role = iota
	Viewer
	PolicyAuthor
	Operator
)

// String is the role as configuration and ledger write it.
func (r Role) String() string {
	switch r {
	case Viewer:
		return "viewer"
	case PolicyAuthor:
		return "policy_author"
	case Operator:
		return "operator"
	case NoRole:
	}
	return "none"
}

// methodRule is who may call a method, and whether a call changes anything.
type methodRule struct {
	role   Role
	writes bool
}

// methodRules says it of every method of every admin service; of none that is not
// here may anybody call. A test compares it with the services.
func methodRules() map[string]methodRule {
	read, write := methodRule{role: Viewer}, func(r Role) methodRule { return methodRule{role: r, writes: true} }
	return map[string]methodRule{
		assayv1.Admin_Status_FullMethodName:                read,
		assayv1.Admin_ListLedger_FullMethodName:            read,
		assayv1.Admin_GetLedgerEntry_FullMethodName:        read,
		assayv1.Admin_ListRecords_FullMethodName:           read,
		assayv1.Admin_ListCheckpoints_FullMethodName:       read,
		assayv1.Admin_GetEvidence_FullMethodName:           read,
		assayv1.Admin_GetBundle_FullMethodName:             read,
		assayv1.Admin_PushPolicy_FullMethodName:            write(PolicyAuthor),
		assayv1.Admin_PolicyStatus_FullMethodName:          read,
		assayv1.Admin_ListPolicyChanges_FullMethodName:     read,
		assayv1.Admin_GetPolicy_FullMethodName:             read,
		assayv1.Admin_ListEndorsementKeys_FullMethodName:   read,
		assayv1.Admin_AddEndorsementKeys_FullMethodName:    write(PolicyAuthor),
		assayv1.Admin_RemoveEndorsementKeys_FullMethodName: write(PolicyAuthor),

		assayv1.Agents_ListAgents_FullMethodName:         read,
		assayv1.Agents_GetAgent_FullMethodName:           read,
		assayv1.Agents_Ban_FullMethodName:                write(Operator),
		assayv1.Agents_Unban_FullMethodName:              write(Operator),
		assayv1.Agents_ListBans_FullMethodName:           read,
		assayv1.Agents_ListSVIDs_FullMethodName:          read,
		assayv1.Agents_RevokeSVIDs_FullMethodName:        write(Operator),
		assayv1.Agents_DenyPolicy_FullMethodName:         write(Operator),
		assayv1.Agents_LiftPolicy_FullMethodName:         write(Operator),
		assayv1.Agents_ListDeniedPolicies_FullMethodName: read,
		assayv1.Agents_GetDenyList_FullMethodName:        read,

		assayv1.Authorities_ListAuthorities_FullMethodName:   read,
		assayv1.Authorities_PrepareAuthority_FullMethodName:  write(Operator),
		assayv1.Authorities_ActivateAuthority_FullMethodName: write(Operator),
		assayv1.Authorities_TaintAuthority_FullMethodName:    write(Operator),
		assayv1.Authorities_RevokeAuthority_FullMethodName:   write(Operator),
		assayv1.Authorities_GetAuthorityCSR_FullMethodName:   write(Operator),
		assayv1.Authorities_ImportAuthority_FullMethodName:   write(Operator),

		assayv1.Federations_ListFederations_FullMethodName:   read,
		assayv1.Federations_SetFederation_FullMethodName:     write(Operator),
		assayv1.Federations_DeleteFederation_FullMethodName:  write(Operator),
		assayv1.Federations_RefreshFederation_FullMethodName: write(Operator),
	}
}
