package literals

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	wantsTime     = "a time such as 2024-02-29T12:30:00Z or 2024-02-29"
	wantsDuration = "a duration such as 1h30m, PT1H30M or a number of seconds"
)

// layouts of times, each also with a fraction of a second. Without a zone, UTC is meant, as flytekit takes it.
var layouts = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02",
}

func parseTime(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	if len(text) > 10 && (text[10] == ' ' || text[10] == 't') {
		text = text[:10] + "T" + strings.TrimLeft(text[11:], " ")
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil && t.Year() > 0 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("no time")
}

// iso is ISO 8601's duration without months and years, whose length is not fixed.
var iso = regexp.MustCompile(`^([-+]?)P(?:(\d+(?:[.,]\d+)?)W)?(?:(\d+(?:[.,]\d+)?)D)?(?:T(?:(\d+(?:[.,]\d+)?)H)?(?:(\d+(?:[.,]\d+)?)M)?(?:(\d+(?:[.,]\d+)?)S)?)?$`)

// days is Go's notation with days in front.
var days = regexp.MustCompile(`^([-+]?)(\d+(?:\.\d+)?)d((?:\d.*)?)$`)

// parseDuration reads Go's notation, with days too, or ISO 8601's.
func parseDuration(text string) (*durationpb.Duration, error) {
	text = strings.TrimSpace(text)
	if d, err := time.ParseDuration(text); err == nil && text != "0" {
		return durationpb.New(d), nil
	}
	if m := days.FindStringSubmatch(text); m != nil {
		rest := new(big.Rat)
		if m[3] != "" {
			d, err := time.ParseDuration(m[3])
			if err != nil {
				return nil, err
			}
			rest.SetFrac64(int64(d), int64(time.Second))
		}
		return seconds(m[1], rest.Add(rest, times(m[2], 24*60*60)))
	}
	m := iso.FindStringSubmatch(strings.ToUpper(text))
	if m == nil || strings.HasSuffix(strings.ToUpper(text), "T") || strings.HasSuffix(strings.ToUpper(text), "P") {
		return nil, fmt.Errorf("%q is no duration", text)
	}
	sum := new(big.Rat)
	for i, unit := range []int64{7 * 24 * 60 * 60, 24 * 60 * 60, 60 * 60, 60, 1} {
		sum.Add(sum, times(m[i+2], unit))
	}
	return seconds(m[1], sum)
}

func times(number string, unit int64) *big.Rat {
	r, ok := new(big.Rat).SetString(strings.ReplaceAll(number, ",", "."))
	if !ok {
		return new(big.Rat)
	}
	return r.Mul(r, new(big.Rat).SetInt64(unit))
}

// seconds makes a duration, exact to the nanosecond.
func seconds(sign string, r *big.Rat) (*durationpb.Duration, error) {
	if sign == "-" {
		r.Neg(r)
	}
	nanos := new(big.Int).Quo(new(big.Int).Mul(r.Num(), big.NewInt(int64(time.Second))), r.Denom())
	whole, rest := new(big.Int).QuoRem(nanos, big.NewInt(int64(time.Second)), new(big.Int))
	d := &durationpb.Duration{Seconds: whole.Int64(), Nanos: int32(rest.Int64())} //nolint:gosec // below a billion
	if !whole.IsInt64() || d.CheckValid() != nil {
		return nil, errors.New("the duration is longer than 10,000 years")
	}
	return d, nil
}

// formatDuration gives what parseDuration reads.
func formatDuration(d *durationpb.Duration) string {
	if v := d.AsDuration(); durationpb.New(v).GetSeconds() == d.GetSeconds() {
		return v.String()
	}
	return fmt.Sprintf("%dd%s", d.GetSeconds()/(24*60*60), (time.Duration(d.GetSeconds()%(24*60*60))*time.Second + time.Duration(d.GetNanos())).Abs())
}
