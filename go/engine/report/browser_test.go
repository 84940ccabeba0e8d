package report

import (
	"context"
	"flag"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
)

var images = flag.String("images", "", "a folder to write the screenshots of the documentation to")

// browserPath is the browser that tools/chromium.sh finds or installs.
func browserPath(t *testing.T) string {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"}
	if given := os.Getenv("FLYTE_BACKEND_CHROMIUM"); given != "" {
		names = []string{given}
	}
	for _, n := range names {
		if path, err := exec.LookPath(n); err == nil {
			return path
		}
	}
	require.FailNow(t, "no browser", "These tests need Chromium or Chrome, and there is no %s. tools/chromium.sh installs one on Debian, or says what to install.", strings.Join(names, ", "))
	return ""
}

func browser(t *testing.T) context.Context {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browserPath(t)), chromedp.UserDataDir(t.TempDir()), chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.WSURLReadTimeout(time.Minute))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // Chromium refuses to run as root with it
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx))
	return ctx
}

// watch collects what a page must not do: load something, or complain.
type watch struct {
	mu    sync.Mutex
	found []string
}

func (w *watch) add(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, s)
}

func (w *watch) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.found...)
}

// tab opens a report in a tab of its own.
func tab(t *testing.T, ctx context.Context, s *history.Snapshot, info Info, width, height int64, dark bool) (context.Context, *watch) { //nolint:revive // a helper's t comes first
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, os.WriteFile(path, []byte(write(t, s, info)), 0o644))
	address := (&url.URL{Scheme: "file", Path: path}).String()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	w := &watch{}
	require.NoError(t, chromedp.Listen(ctx, func(e any) {
		switch e := e.(type) {
		case *network.EventRequestWillBeSent:
			if u := e.Request.URL; u != address && !strings.HasPrefix(u, address+"#") && u != "data:," {
				w.add("request: " + u)
			}
		case *runtime.EventConsoleAPICalled:
			w.add("console: " + string(e.Type))
		case *runtime.EventExceptionThrown:
			w.add("exception: " + e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			w.add("log: " + e.Entry.Text)
		case *cdppage.EventJavascriptDialogOpening:
			w.add("dialog: " + e.Message)
		}
	}))
	t.Cleanup(func() { assert.Empty(t, w.all()) })
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, log.Enable, cdp.Empty{})
	require.NoError(t, err)
	media(t, ctx, dark)
	require.NoError(t, chromedp.Do(ctx, size(width, height, 1), chromedp.Navigate(address), chromedp.WaitReady(chromedp.CSS("footer"))))
	return ctx, w
}

func media(t *testing.T, ctx context.Context, dark bool) { //nolint:revive // a helper's t comes first
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	require.NoError(t, err)
}

func size(width, height int64, scale float64) chromedp.Action[chromedp.Void] {
	return chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale))
}

func eval[T any](t *testing.T, ctx context.Context, script string) T { //nolint:revive // a helper's t comes first
	t.Helper()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	require.NoError(t, err)
	return out
}

const openAll = `document.querySelectorAll("details").forEach(d => d.open = true), true`

func TestInABrowser(t *testing.T) {
	ctx := browser(t)
	t.Run("no width scrolls sideways", func(t *testing.T) {
		for name, s := range map[string]*history.Snapshot{"sample": sample(time.Hour), "running": sample(30 * time.Second), "hostile": hostileRun(), "large": large()} {
			tab, _ := tab(t, ctx, s, info, 320, 700, false)
			for _, open := range []bool{false, true} {
				if open && name != "large" {
					eval[bool](t, tab, openAll)
				}
				for _, width := range []int64{320, 360, 400, 768, 1280} {
					require.NoError(t, chromedp.Do(tab, size(width, 700, 1)))
					got := eval[[]int64](t, tab, `[document.scrollingElement.scrollWidth, innerWidth]`)
					assert.Equal(t, width, got[1])
					if got[0] > got[1] {
						assert.Fail(t, "scrolls sideways", "%s at %d, open: %v: %v", name, width, open, eval[[]string](t, tab, tooWide))
					}
				}
			}
		}
	})
	t.Run("contrast", func(t *testing.T) {
		for _, s := range []*history.Snapshot{sample(time.Hour), sample(30 * time.Second)} {
			for _, dark := range []bool{false, true} {
				tab, _ := tab(t, ctx, s, info, 1280, 900, dark)
				eval[bool](t, tab, openAll)
				got := eval[[]string](t, tab, lowContrast)
				require.NotEmpty(t, got)
				t.Log(got[0])
				assert.Empty(t, got[1:], "dark: %v", dark)
			}
		}
	})
	t.Run("light and dark", func(t *testing.T) {
		const colour = `getComputedStyle(document.body).backgroundColor`
		tab, _ := tab(t, ctx, sample(time.Hour), info, 1280, 900, false)
		light := eval[string](t, tab, colour)
		media(t, tab, true)
		dark := eval[string](t, tab, colour)
		assert.NotEqual(t, light, dark, "it follows the system")
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS("#theme"))))
		assert.Equal(t, light, eval[string](t, tab, colour), "the button says otherwise")
		assert.Equal(t, "Dark", eval[string](t, tab, `document.getElementById("theme").textContent`))
		media(t, tab, false)
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS("#theme"))))
		assert.Equal(t, dark, eval[string](t, tab, colour))
	})
	t.Run("the events are filtered", func(t *testing.T) {
		const shown = `[...document.querySelectorAll("#events tbody tr")].filter(r => r.getClientRects().length).length`
		tab, _ := tab(t, ctx, sample(time.Hour), info, 1280, 900, false)
		all := eval[int](t, tab, shown)
		assert.Greater(t, all, 100)
		require.NoError(t, chromedp.Do(tab, chromedp.SendKeys(chromedp.CSS("#find"), "TRAINING.fit epoch")))
		assert.Equal(t, 3, eval[int](t, tab, shown))
		assert.Equal(t, "3 of ", eval[string](t, tab, `document.getElementById("found").textContent.slice(0, 5)`))
		eval[bool](t, tab, `(() => { const get = (id) => document.getElementById(id); get("find").value = ""; get("phase").value = "FAILED"; get("phase").dispatchEvent(new Event("change")); return true; })()`)
		n := eval[int](t, tab, shown)
		assert.True(t, n > 3 && n < all, "%d", n)
	})
	t.Run("links lead to the opened details", func(t *testing.T) {
		tab, _ := tab(t, ctx, sample(time.Hour), info, 1280, 900, false)
		const open = `document.querySelectorAll("details.row[open]").length`
		assert.Zero(t, eval[int](t, tab, open))
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS(".problem h2 a")), chromedp.WaitVisible(chromedp.CSS("details.row[open] pre"))))
		assert.Equal(t, 1, eval[int](t, tab, open))
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS("details.row[open] > summary"))))
		assert.Zero(t, eval[int](t, tab, open), "closed again")
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS(".problem h2 a")), chromedp.WaitVisible(chromedp.CSS("details.row[open] pre"))))
		require.NoError(t, chromedp.Do(tab, chromedp.Click(chromedp.CSS(".expand"))))
		assert.Equal(t, 13, eval[int](t, tab, open))
		assert.True(t, eval[bool](t, tab, `[...document.querySelectorAll(".graph a, .problem a, #events a")].every(a => !a.getAttribute("href").startsWith("#") || document.getElementById(a.getAttribute("href").slice(1)))`), "no link within the page leads nowhere")
	})
	t.Run("by keyboard", func(t *testing.T) {
		tab, _ := tab(t, ctx, sample(time.Hour), info, 1280, 900, false)
		require.NoError(t, chromedp.Do(tab, chromedp.Focus(chromedp.CSS("details.row > summary")), chromedp.KeyEvent("\r")))
		assert.Equal(t, 1, eval[int](t, tab, `document.querySelectorAll("details.row[open]").length`))
		assert.Equal(t, []string{"H1"}, eval[[]string](t, tab, `[...document.querySelectorAll("h1")].map(h => h.tagName)`))
		assert.Empty(t, eval[[]string](t, tab, `[...document.querySelectorAll("input, select, button")].filter(e => !(e.labels && e.labels.length) && !e.textContent && !e.ariaLabel).map(e => e.outerHTML)`), "without a name")
	})
	t.Run("hostile text is inert", func(t *testing.T) {
		tab, _ := tab(t, ctx, hostileRun(), Info{Title: hostile}, 1280, 900, false)
		eval[bool](t, tab, openAll)
		eval[bool](t, tab, `document.querySelectorAll("main *").forEach(e => { for (const n of ["mouseover", "focus", "error"]) e.dispatchEvent(new Event(n)); }), true`)
		assert.False(t, eval[bool](t, tab, `"pwned" in window`))
		assert.Zero(t, eval[int](t, tab, `document.querySelectorAll("img, iframe, script:not(body > script)").length`))
		assert.Empty(t, eval[[]string](t, tab, `[...document.links].map(a => a.href).filter(h => !/^(https?|file):/.test(h) || /passwd/.test(h))`))
		assert.Contains(t, eval[string](t, tab, `document.querySelector("h1").textContent`), "<img src=x")
	})
	t.Run("the policy holds", func(t *testing.T) {
		tab, w := tab(t, ctx, sample(time.Hour), info, 1280, 900, false)
		// What the page itself never does, tried from inside: it must be refused.
		eval[bool](t, tab, `(() => { const s = document.createElement("script"); s.textContent = "window.pwned = 1"; document.body.append(s);
			const i = document.createElement("img"); i.src = "https://example.com/x.png"; document.body.append(i); return true; })()`)
		assert.False(t, eval[bool](t, tab, `"pwned" in window`))
		require.Eventually(t, func() bool { return strings.Count(strings.Join(w.all(), "\n"), "Content Security Policy") >= 2 }, 10*time.Second, 20*time.Millisecond)
		w.mu.Lock()
		w.found = nil
		w.mu.Unlock()
	})
	t.Run("a large run does not freeze", func(t *testing.T) {
		began := time.Now()
		tab, _ := tab(t, ctx, large(), info, 390, 844, true)
		require.NoError(t, chromedp.Do(tab, chromedp.SendKeys(chromedp.CSS("#find"), "step_77")))
		assert.Positive(t, eval[int](t, tab, `document.querySelectorAll("#events tbody tr:not([hidden])").length`))
		took := eval[float64](t, tab, `(() => { const t = performance.now(); const d = document.querySelector("details.items"); d.open = true; d.closest("details.row").open = true; d.getBoundingClientRect(); return performance.now() - t; })()`)
		assert.Less(t, took, 3000.0, "milliseconds to open 1,000 items")
		assert.Less(t, time.Since(began), time.Minute)
		t.Logf("loaded and used in %s, items opened in %.0f ms", time.Since(began), took)
	})
}

// tooWide names elements that stick out.
const tooWide = `[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".graph") && !e.closest(".events")).slice(0, 5).map(e => e.outerHTML.slice(0, 120))`

// lowContrast measures the contrast of every visible text with what is behind it, by the formula of WCAG 2.
const lowContrast = `(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const luminance = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const background = (e) => {
    if (e.closest("svg .box")) return rgb(getComputedStyle(e.closest(".box").querySelector(".card")).fill);
    for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return [255, 255, 255];
  };
  let n = 0;
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest("title, script, .vh")) continue;
    n++;
    const style = getComputedStyle(e);
    const f = luminance(rgb(e instanceof SVGElement ? style.fill : style.color).slice(0, 3)), b = luminance(background(e).slice(0, 3));
    const ratio = (Math.max(f, b) + 0.05) / (Math.min(f, b) + 0.05);
    if (ratio < 4.5) low.add(ratio.toFixed(2) + " " + e.tagName + "." + (e.getAttribute("class") || "") + " " + walker.currentNode.data.trim().slice(0, 40));
  }
  return [String(n).padStart(4, "0").replace(/^0+/, "") + " texts", ...low];
})()`

func TestScreenshots(t *testing.T) {
	ctx := browser(t)
	dir := *images
	if dir == "" {
		dir = t.TempDir()
	}
	for _, c := range []struct {
		name          string
		width, height int64
		scale         float64
		dark          bool
	}{
		{"report-desktop-light", 1180, 2160, 1, false},
		{"report-phone-dark", 390, 1180, 1.5, true},
	} {
		tab, _ := tab(t, ctx, sample(time.Hour), info, c.width, c.height, c.dark)
		require.NoError(t, chromedp.Do(tab, size(c.width, c.height, c.scale)))
		png, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		assert.Less(t, len(png), 200<<10, c.name)
		assert.Greater(t, len(png), 10<<10, c.name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, c.name+".png"), png, 0o644))
	}
}
