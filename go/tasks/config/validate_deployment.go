package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// reservedAuth are the authentication types that the design has words for and this version does not have.
var reservedAuth = []string{"bearer", "oauth2", "serviceAccount"}

var (
	hostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?$`)
	// A word that is safe to print although it stands where somebody may have pasted a credential.
	plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,15}$`)
)

const endpointExample = "host:port or a target such as dns:///host:port, unix:///path or passthrough:///host:port"

func (c *Config) validateDeployments(p *problems) {
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Deployments)) {
		key := member(sectionPath+".deployments", name)
		switch {
		case name == "":
			p.add(key, `""`, "a deployment must have a name")
		case !label.MatchString(strings.ToLower(name)):
			p.add(key, quote(name), "the name must be a lower-case label: at most 63 letters, digits and -, beginning and ending with a letter or digit")
		}
		if other, ok := taken[Canonical(name)]; ok {
			p.add(key, quote(name), "is the same name as %q, since names are matched without case; rename one of the two", other)
		}
		taken[Canonical(name)] = name

		d := c.Deployments[name]
		if d == nil {
			p.add(key, "nil", "must at least have an endpoint")
			continue
		}
		d.validate(p, key)
	}
}

func (d *Deployment) validate(p *problems, key string) {
	d.validateEndpoint(p, key)
	d.validateTLS(p, key)

	switch t := d.Auth.Type; {
	case t == "" || t == AuthNone:
	case slices.ContainsFunc(reservedAuth, func(r string) bool { return strings.EqualFold(r, t) }):
		p.add(key+".auth.type", quote(t), "not available in this version, use %s", AuthNone)
	case plainWord.MatchString(t):
		p.add(key+".auth.type", quote(t), "is unknown, use %s", AuthNone)
	default:
		p.add(key+".auth.type", "(not shown)", "is unknown, use %s", AuthNone)
	}

	if t := d.DefaultTimeout.Duration; t != 0 && (t < rangeDefaultTimeout.min || t > rangeDefaultTimeout.max) {
		p.add(key+".defaultTimeout", short(t), "must be from %s, or 0 for %s%s", rangeDefaultTimeout, short(defaultTimeout), unitHint(t))
	}
	named := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(d.Timeouts)) {
		timeoutKey := member(key+".timeouts", name)
		call := strings.ToLower(name)
		if !slices.Contains(calls, call) {
			p.add(timeoutKey, short(d.Timeouts[name].Duration), "there is no such call; the calls are %s", strings.Join(calls, ", "))
			continue
		}
		if other, ok := named[call]; ok {
			p.add(timeoutKey, short(d.Timeouts[name].Duration), "is the same call as %q, since calls are matched without case; keep one of the two", other)
		}
		named[call] = name
		p.duration(timeoutKey, d.Timeouts[name].Duration, rangeTimeout)
	}

	if n := d.MaxMessageSizeBytes; n != 0 && (n < minMessageSize || n > maxMessageSize) {
		p.add(key+".maxMessageSizeBytes", strconv.Itoa(n), "must be from %d (64 KiB) to %d (2 GiB - 1), or 0 for %d (16 MiB)",
			minMessageSize, maxMessageSize, defaultMaxMessageSize)
	}
}

func (d *Deployment) validateEndpoint(p *problems, key string) {
	var wrong string
	switch d.Protocol {
	case "", ProtocolGRPC:
		wrong = wrongTarget(d.Endpoint)
	case ProtocolREST:
		wrong = wrongURL(d.Endpoint, d.Insecure)
	default:
		p.add(key+".protocol", quote(d.Protocol), "must be %s (or empty) or %s", ProtocolGRPC, ProtocolREST)
		if d.Endpoint == "" {
			wrong = "must be set to the address of the service"
		}
	}
	if wrong != "" {
		p.add(key+".endpoint", shownEndpoint(d.Endpoint), "%s", wrong)
	}
}

// wrongTarget says what is wrong with a gRPC target, or nothing. It reads targets as grpc-go does: a known scheme counts
// even without slashes, so that dns:8000 is not the port of a host called dns.
func wrongTarget(endpoint string) string {
	switch {
	case endpoint == "":
		return "must be set: " + endpointExample
	case strings.ContainsFunc(endpoint, notInWord):
		return "must not hold white space or control characters"
	}
	scheme, rest, _ := strings.Cut(endpoint, ":")
	switch strings.ToLower(scheme) {
	case "http", "https":
		if strings.HasPrefix(rest, "//") {
			return "is a URL, but gRPC takes " + endpointExample + "; whether it is TLS is said by insecure"
		}
	case "dns":
		target, ok := targetOf(rest)
		if !ok || !isHostPort(target) {
			return "must be dns:///host:port, with a port from 1 to 65535"
		}
		return ""
	case "passthrough":
		if target, ok := targetOf(rest); !ok || target == "" {
			return "must be passthrough:///host:port"
		}
		return ""
	case "unix", "unix-abstract":
		path := strings.TrimPrefix(rest, "//")
		if path == "" || path == "/" || (path != rest && !strings.HasPrefix(path, "/")) {
			return fmt.Sprintf("must be %[1]s:path or %[1]s:///absolute/path", strings.ToLower(scheme))
		}
		return ""
	}
	if strings.Contains(endpoint, "://") {
		return "has an unknown scheme; write " + endpointExample
	}
	if !isHostPort(endpoint) {
		return "must be " + endpointExample + ", with a port from 1 to 65535"
	}
	return ""
}

// targetOf takes the authority off what follows a scheme: ///target, //authority/target or target.
func targetOf(rest string) (target string, ok bool) {
	after, hasAuthority := strings.CutPrefix(rest, "//")
	if !hasAuthority {
		return rest, true
	}
	_, target, ok = strings.Cut(after, "/")
	return target, ok
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && isHost(host) && isPort(port)
}

func isHost(s string) bool { return hostname.MatchString(s) || net.ParseIP(s) != nil }

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// restRoot is what the REST contract's paths begin with.
const restRoot = "/plugins/v1"

// wrongURL says what is wrong with the URL of a REST service, or nothing. The parser's own error stays out of it, because
// it repeats parts of the URL, and those can be a password.
func wrongURL(endpoint string, insecure bool) string {
	u, err := url.Parse(endpoint)
	switch {
	case endpoint == "":
		return "must be set: a URL such as https://host:port"
	case err != nil || u.Opaque != "" || (u.Scheme != "http" && u.Scheme != "https") || !isHost(u.Hostname()) || (u.Port() != "" && !isPort(u.Port())):
		return "must be a URL such as https://host:port"
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "must not hold a user, a query or a fragment: only https://host:port/path"
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), restRoot): // a service would take it for a plugin's path
		return "must not end with " + restRoot + ", with which the paths of the calls begin"
	case u.Scheme == "http" && !insecure:
		return "is plain text; write https://, or insecure: true"
	case u.Scheme == "https" && insecure:
		return "is TLS, but insecure is true; write http://, or insecure: false"
	}
	return ""
}

// shownEndpoint shows an endpoint without what may be a credential in it.
func shownEndpoint(endpoint string) string {
	if i := strings.IndexAny(endpoint, "?#"); i >= 0 {
		endpoint = endpoint[:i] + "?..."
	}
	if at := strings.LastIndex(endpoint, "@"); at >= 0 {
		scheme := ""
		if i := strings.Index(endpoint[:at], "://"); i >= 0 {
			scheme = endpoint[:i+len("://")]
		}
		endpoint = scheme + "***" + endpoint[at:]
	}
	return quote(endpoint)
}

func (d *Deployment) validateTLS(p *problems, key string) {
	t := d.TLS
	fields := []struct{ name, value, shown string }{
		{"caFile", t.CAFile, shownPath(t.CAFile)},
		{"certFile", t.CertFile, shownPath(t.CertFile)},
		{"keyFile", t.KeyFile, shownPath(t.KeyFile)},
		{"serverName", t.ServerName, quote(t.ServerName)},
	}
	if d.Insecure {
		for _, f := range fields {
			if f.value != "" {
				p.add(key+".tls."+f.name, f.shown, "must be empty while insecure is true; write insecure: false for TLS")
			}
		}
		return
	}

	if t.ServerName != "" && !isHost(t.ServerName) {
		p.add(key+".tls.serverName", quote(t.ServerName), "must be a host name, without scheme or port")
	}
	if pem, ok := p.file(key+".tls.caFile", t.CAFile); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		p.add(key+".tls.caFile", shownPath(t.CAFile), "holds no certificate in PEM form")
	}
	cert, haveCert := p.file(key+".tls.certFile", t.CertFile)
	private, haveKey := p.file(key+".tls.keyFile", t.KeyFile)
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		p.add(key+".tls.keyFile", `""`, "must be set, because certFile is")
	case t.CertFile == "" && t.KeyFile != "":
		p.add(key+".tls.certFile", `""`, "must be set, because keyFile is")
	case haveCert && haveKey:
		if _, err := tls.X509KeyPair(cert, private); err != nil {
			p.add(key+".tls.certFile", shownPath(t.CertFile), "is no certificate that goes with keyFile %s: %v", shownPath(t.KeyFile), err)
		}
	}
}

// file reads a file that a key names; ok is false when the key is empty or the file cannot be read.
func (p *problems) file(key, path string) (content []byte, ok bool) {
	if path == "" {
		return nil, false
	}
	if isPEM(path) {
		p.add(key, shownPath(path), "must be the path of a file, not what is in it")
		return nil, false
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		// Reading a named pipe would block for ever.
		p.add(key, shownPath(path), "must be a file")
		return nil, false
	}
	if err == nil {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		p.add(key, shownPath(path), "must be a file that propeller can read: %v", reason(err))
		return nil, false
	}
	return content, true
}

// reason leaves the path out of a file error, since the line already shows it.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

func isPEM(s string) bool { return strings.Contains(s, "-----") || strings.Contains(s, "\n") }

// shownPath shows a path, unless somebody pasted a key in its place.
func shownPath(path string) string {
	if isPEM(path) {
		return "(PEM text, not shown)"
	}
	return quote(path)
}
