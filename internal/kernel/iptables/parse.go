package iptables

import (
	"fmt"
	"strings"
)

// Chain is a chain as iptables-save prints it.
type Chain struct {
	// Policy is the verdict at the end of a built-in chain, "-" for others.
	Policy string
	// Rules are the rules in order, without "-A CHAIN".
	Rules []string
}

// Parse reads the chains of a table from the text of iptables-save. The text of
// rules is kept as it is; counters and comment lines are dropped. Text without
// the table, which the tools print where it was never used, has no chains.
func Parse(text string, table Table) (map[string]Chain, error) {
	p := parser{table: table, chains: map[string]Chain{}}
	for text != "" {
		var line string
		line, text = cutLine(text)
		p.number++
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("iptables-save of table %s, line %d: %w", table, p.number, err)
		}
	}
	if p.inside {
		return nil, fmt.Errorf("iptables-save of table %s: the text ends before COMMIT", table)
	}
	return p.chains, nil
}

type parser struct {
	table  Table
	number int
	inside bool // between *table and COMMIT
	other  bool // in another table
	chains map[string]Chain
}

func (p *parser) line(line string) error {
	switch {
	case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
		return incompatible(line)
	case strings.HasPrefix(line, "*"):
		p.inside = line[1:] == string(p.table)
		p.other = !p.inside
		return nil
	case line == "COMMIT":
		p.inside, p.other = false, false
		return nil
	case p.other:
		return nil
	case !p.inside:
		return fmt.Errorf("%q stands outside of a table", line)
	case strings.HasPrefix(line, ":"):
		return p.declare(line[1:])
	}
	return p.rule(line)
}

// incompatible recognises what iptables-nft-save prints in place of a table
// that somebody filled with rules it cannot express.
func incompatible(line string) error {
	if strings.Contains(line, "is incompatible, use 'nft' tool") {
		return fmt.Errorf("the table holds rules that were not made by iptables (%s)", strings.TrimLeft(line, "# "))
	}
	return nil
}

// declare reads "FORWARD ACCEPT [0:0]".
func (p *parser) declare(rest string) error {
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return fmt.Errorf("chain %q without a policy", rest)
	}
	if _, ok := p.chains[fields[0]]; ok {
		return fmt.Errorf("chain %s appears twice", fields[0])
	}
	p.chains[fields[0]] = Chain{Policy: fields[1]}
	return nil
}

// rule reads "-A CHAIN ...", with or without "[packets:bytes] " before it.
func (p *parser) rule(line string) error {
	if strings.HasPrefix(line, "[") {
		if _, rest, ok := strings.Cut(line, "] "); ok {
			line = rest
		}
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	if !ok {
		return fmt.Errorf("%q is neither a chain nor a rule", line)
	}
	name, rule, _ := strings.Cut(rest, " ")
	chain, ok := p.chains[name]
	if !ok {
		return fmt.Errorf("rule of chain %q, which was not declared", name)
	}
	chain.Rules = append(chain.Rules, rule)
	p.chains[name] = chain
	return nil
}

// cutLine takes a line off text. A line break between quotes belongs to the
// line: the tools print comments as they are.
func cutLine(text string) (line, rest string) {
	if strings.HasPrefix(text, "#") {
		line, rest, _ = strings.Cut(text, "\n")
		return line, rest
	}
	quoted := false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case '\n':
			if !quoted {
				return text[:i], text[i+1:]
			}
		}
	}
	return text, ""
}

// words splits a rule as iptables-restore does: at spaces outside of double
// quotes, with a backslash escaping inside of them. Quotes are removed.
func words(rule string) []string {
	var out []string
	var word strings.Builder
	quoted, inWord := false, false
	for i := 0; i < len(rule); i++ {
		c := rule[i]
		switch {
		case c == '"':
			quoted, inWord = !quoted, true
		case quoted && c == '\\' && i+1 < len(rule):
			i++
			word.WriteByte(rule[i])
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if inWord {
				out = append(out, word.String())
				word.Reset()
				inWord = false
			}
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		out = append(out, word.String())
	}
	return out
}

// target is the chain or extension that a rule leads to, or "".
func target(rule string) string {
	if !strings.ContainsRune(rule, '"') {
		return plainTarget(rule)
	}
	w := words(rule)
	for i := 0; i+1 < len(w); i++ {
		switch w[i] {
		case "-j", "-g", "--jump", "--goto":
			return w[i+1]
		case "--comment", "--nflog-prefix", "--log-prefix":
			i++ // may be any text, "-j" too
		}
	}
	return ""
}

// plainTarget is target for a rule without quotes, by far the most, without
// allocating.
func plainTarget(rule string) string {
	after := ""
	for rule != "" {
		var word string
		word, rule, _ = strings.Cut(rule, " ")
		switch after {
		case "-j", "-g", "--jump", "--goto":
			return word
		case "--comment", "--nflog-prefix", "--log-prefix":
			after = ""
			continue
		}
		after = word
	}
	return ""
}
