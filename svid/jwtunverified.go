package svid

import "time"

// UnverifiedJWT is what a JWT-SVID says, whose signature nobody has checked:
// anybody can write one that says this. It is for looking at.
type UnverifiedJWT struct {
	Subject   string    `json:"sub"`
	Audience  []string  `json:"aud"`
	Issuer    string    `json:"iss,omitempty"`
	TokenID   string    `json:"jti,omitempty"`
	IssuedAt  time.Time `json:"iat,omitzero"`
	Expiry    time.Time `json:"exp"`
	KeyID     string    `json:"kid"`
	Algorithm string    `json:"alg"`
	// Serial is that of the X.509-SVID that asked for it, and Result what it says of
	// an attestation; nil where it says nothing, or nothing that can be read:
	// ResultErr tells which.
	Serial    string  `json:"serial,omitempty"`
	Result    *Result `json:"result"`
	ResultErr error   `json:"-"`
	Payload   []byte  `json:"-"` // the claims, JSON, all of them
}

// JWTFrom reads a token without verifying it. It makes those checks of
// [VerifyJWTSVID] that need no key.
func JWTFrom(token string) (*UnverifiedJWT, error) {
	u, err := parseJWT(token)
	if err != nil {
		return nil, err
	}
	s := &u.svid
	out := &UnverifiedJWT{
		Subject: s.ID.String(), Audience: s.Audience, Issuer: s.Issuer, TokenID: s.TokenID, IssuedAt: s.IssuedAt, Expiry: s.Expiry,
		KeyID: s.KeyID, Algorithm: s.Algorithm, Payload: s.Payload,
	}
	out.Result, out.Serial, out.ResultErr = s.attestation()
	return out, nil
}
