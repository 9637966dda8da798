package files

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Names of the files for AWS, and the audience of the token.
const (
	AWSAudience  = "sts.amazonaws.com"
	awsTokenFile = "aws-token"
	awsEnvFile   = "aws.env"
	// DefaultAWSSession is the session's name where none is given.
	DefaultAWSSession = "assay"
)

// AWS is what software needs to take a role with the token
// (AssumeRoleWithWebIdentity): AWS SDKs read it from variables.
type AWS struct {
	Role    string // ARN
	Session string // "" is DefaultAWSSession
	Region  string // "" leaves it to the SDK
}

var (
	roleARN     = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	regionName  = regexp.MustCompile(`^[a-z]{2}(-[a-z0-9]+)+$`)
	plainPath   = regexp.MustCompile(`^[\w+=,.@/:%-]+$`)
)

// check checks the values, none of which needs quotes then, whoever reads the file.
func (a *AWS) check(dir string) error {
	switch {
	case !roleARN.MatchString(a.Role):
		return fmt.Errorf("%q is not the ARN of a role, such as arn:aws:iam::123456789012:role/payments", a.Role)
	case !sessionName.MatchString(a.session()):
		return fmt.Errorf("%q is not the name of a session: 2 to 64 letters, digits and _+=,.@-", a.Session)
	case a.Region != "" && !regionName.MatchString(a.Region):
		return fmt.Errorf("%q is not a region", a.Region)
	case !plainPath.MatchString(dir):
		return errors.New("the directory's path would need quotes in a file of variables")
	}
	return nil
}

func (a *AWS) session() string {
	if a.Session == "" {
		return DefaultAWSSession
	}
	return a.Session
}

// Environ are the variables, as NAME=VALUE.
func (a *AWS) Environ(dir string) []string {
	out := []string{
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + dir + "/" + awsTokenFile,
		"AWS_ROLE_ARN=" + a.Role,
		"AWS_ROLE_SESSION_NAME=" + a.session(),
	}
	if a.Region != "" {
		out = append(out, "AWS_REGION="+a.Region)
	}
	return out
}

func (a *AWS) envFile(dir string) File {
	return File{Name: awsEnvFile, Content: []byte(strings.Join(a.Environ(dir), "\n") + "\n")}
}
