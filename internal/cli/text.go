package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// columns is the width of a screen.
const columns = 80

// colour is that of a cell.
type colour string

const (
	plain  colour = ""
	bold   colour = "\x1b[1m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	red    colour = "\x1b[31m"
)

// painter paints where that can be seen.
type painter bool

// newPainter paints on terminals, unless the user wants no colours
// (no-color.org).
func newPainter(w io.Writer) painter {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return painter(err == nil)
}

func (p painter) paint(text string, c colour) string {
	if !p || c == plain || text == "" {
		return text
	}
	return string(c) + text + "\x1b[0m"
}

// cell is a field of a table.
type cell struct {
	text   string
	colour colour
}

// table is rows of cells, the first of them the titles.
type table [][]cell

// row makes a row of plain cells.
func row(texts ...string) []cell {
	cells := make([]cell, len(texts))
	for i, text := range texts {
		cells[i].text = text
	}
	return cells
}

// text lays the table out with two spaces between columns. Where it would be
// wider than width (0: no limit), the last column is cut, which explains, and
// then the widest ones.
func (t table) text(width int, p painter) string {
	widths := t.widths(width)
	var b strings.Builder
	for n, cells := range t {
		var line strings.Builder
		for i, c := range cells {
			text := fit(printable(c.text), widths[i])
			pad := widths[i] - utf8.RuneCountInString(text)
			if n == 0 {
				c.colour = bold
			}
			line.WriteString(p.paint(text, c.colour))
			if i < len(cells)-1 {
				line.WriteString(strings.Repeat(" ", pad+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// narrowest is the least that a column is cut to.
const narrowest = 6

func (t table) widths(limit int) []int {
	widths := make([]int, len(t[0]))
	total := 2 * (len(widths) - 1)
	for i := range widths {
		for _, cells := range t {
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(cells[i].text)))
		}
		total += widths[i]
	}
	last := len(widths) - 1
	for limit > 0 && total > limit {
		i := last
		if widths[last] <= narrowest {
			i = widest(widths[:last])
		}
		if widths[i] <= narrowest {
			break
		}
		widths[i]--
		total--
	}
	return widths
}

func widest(widths []int) int {
	found := 0
	for i := range widths {
		if widths[i] > widths[found] {
			found = i
		}
	}
	return found
}

// fit cuts text to a width.
func fit(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-1)]) + "…"
}

// printable keeps what others wrote from doing anything to the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// wrap breaks text between words, each line indented. Words that are too long
// for a line are broken.
func wrap(text string, indent int) string {
	var b strings.Builder
	width := 0
	for word := range strings.FieldsSeq(printable(text)) {
		for runes := []rune(word); len(runes) > 0; {
			part := runes[:min(len(runes), columns-indent)]
			runes = runes[len(part):]
			switch {
			case width == 0:
				b.WriteString(strings.Repeat(" ", indent))
				width = indent
			case width+1+len(part) > columns:
				b.WriteString("\n" + strings.Repeat(" ", indent))
				width = indent
			default:
				b.WriteByte(' ')
				width++
			}
			b.WriteString(string(part))
			width += len(part)
		}
	}
	return b.String() + "\n"
}

// brief is wrap, of a few lines at most.
func brief(text string, indent int) string {
	wrapped := strings.SplitAfter(wrap(text, indent), "\n")
	if len(wrapped) <= fewLines+1 {
		return strings.Join(wrapped, "")
	}
	last := strings.TrimSuffix(wrapped[fewLines-1], "\n")
	return strings.Join(wrapped[:fewLines-1], "") + fit(last+" …", columns) + "\n"
}

// fewLines is how long a reason may be where others wait below it.
const fewLines = 3

// age is how long ago a time was, in two units at most: "3h12m".
func age(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	switch d := max(0, now.Sub(since)); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// plural is "1 route", "2 routes".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
