package main

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/rpycfs/rpycfs/rpc"
)

// describer writes one section per message type, each type once, in the order
// in which they are first met.
type describer struct {
	source source
	queue  []reflect.Type
	seen   map[string]bool
}

// link returns a reference to the section of m and queues the section.
func (d *describer) link(m rpc.Message) string {
	return d.typeName(reflect.TypeOf(m).Elem())
}

// typeName returns how the document writes the type of a field. Integers carry
// their size, everything that is not a basic type a section of its own.
func (d *describer) typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		if t.NumField() == 0 {
			return "–"
		}
		if !d.seen[t.String()] {
			d.seen[t.String()] = true
			d.queue = append(d.queue, t)
		}
		return fmt.Sprintf("[%s](#%s)", t.Name(), strings.ToLower(t.Name()))
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "list of " + d.typeName(t.Elem())
	case reflect.Array:
		return fmt.Sprintf("%d bytes", t.Len())
	}
	return basicName(t)
}

// basicName is the name of a type that the codec has a method for.
func basicName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("u%d", t.Bits())
	case reflect.Int64:
		return "i64"
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "string"
	}
	panic("protodoc: no name for a field of type " + t.String())
}

// describeAll writes the queued sections and those that they lead to.
func (d *describer) describeAll(b *strings.Builder) error {
	for len(d.queue) > 0 {
		t := d.queue[0]
		d.queue = d.queue[1:]
		info, ok := d.source[t.PkgPath()+"."+t.Name()]
		if !ok {
			return fmt.Errorf("no source for %s", t)
		}
		fmt.Fprintf(b, "\n#### %s\n\n%s| field | type | |\n|---|---|---|\n", t.Name(), paragraph(info.doc))
		for f := range t.Fields() {
			fmt.Fprintf(b, "| %s | %s | %s |\n", f.Name, d.typeName(f.Type), info.fields[f.Name])
		}
	}
	return nil
}

// paragraph ends non-empty text with an empty line.
func paragraph(text string) string {
	if text == "" {
		return ""
	}
	return text + "\n\n"
}
