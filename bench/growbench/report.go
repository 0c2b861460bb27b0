package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// report is what was found.
type report struct{ Points []point }

// point is one number of one part.
type point struct {
	Part   string
	N      int
	Values values
}

type value struct {
	Name  string
	Value float64
}

type values []value

func readReport(name string) (rep report, err error) {
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &rep)
	}
	return rep, err
}

// parts returns the points of each part.
func (r *report) parts() (names []string, points map[string][]point) {
	points = make(map[string][]point)
	for _, p := range r.Points {
		if points[p.Part] == nil {
			names = append(names, p.Part)
		}
		points[p.Part] = append(points[p.Part], p)
	}
	return names, points
}

func (r *report) markdown(w io.Writer) {
	names, points := r.parts()
	for _, name := range names {
		fmt.Fprintf(w, "\n| %s |", name)
		for _, v := range points[name][0].Values {
			fmt.Fprintf(w, " %s |", v.Name)
		}
		fmt.Fprintf(w, "\n|---:|%s\n", strings.Repeat("---:|", len(points[name][0].Values)))
		for _, p := range points[name] {
			fmt.Fprintf(w, "| %d |", p.N)
			for _, v := range p.Values {
				fmt.Fprintf(w, " %.3g |", v.Value)
			}
			fmt.Fprintln(w)
		}
	}
}

// plot draws a row of two panels for each part: what it costs, and memory.
func (r *report) plot(file string) error {
	names, points := r.parts()
	var rows [][]*plot.Plot
	for _, name := range names {
		speed, memory := panel(name), panel(name)
		memory.Y.Label.Text = "MiB"
		var left, right int
		for i, v := range points[name][0].Values {
			var line plotter.XYs
			for _, p := range points[name] {
				line = append(line, plotter.XY{X: float64(p.N), Y: p.Values[i].Value})
			}
			on, color := speed, &left
			if strings.HasSuffix(v.Name, "peak MiB") {
				on, color = memory, &right
			}
			if err := draws(on, v.Name, line, *color); err != nil {
				return err
			}
			*color++
		}
		rows = append(rows, []*plot.Plot{speed, memory})
	}
	canvas := vgsvg.New(26*vg.Centimeter, vg.Length(len(rows))*8*vg.Centimeter)
	tiles := draw.Tiles{Rows: len(rows), Cols: 2, PadX: vg.Centimeter, PadY: vg.Centimeter, PadTop: 5, PadBottom: 5, PadLeft: 5, PadRight: 5}
	for y, row := range plot.Align(rows, tiles, draw.New(canvas)) {
		for x, at := range row {
			rows[y][x].Draw(at)
		}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

func panel(part string) *plot.Plot {
	p := plot.New()
	p.X.Label.Text = part
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	return p
}

var colors = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
}

// draws adds a line; both axes end at powers of ten.
func draws(p *plot.Plot, name string, xy plotter.XYs, n int) error {
	line, marks, err := plotter.NewLinePoints(xy)
	if err != nil {
		return err
	}
	line.Color, marks.Color, marks.Shape = colors[n%len(colors)], colors[n%len(colors)], draw.CircleGlyph{}
	p.Add(line, marks)
	p.Legend.Add(name, line, marks)
	ys := make([]float64, len(xy))
	for i := range xy {
		ys[i] = xy[i].Y
	}
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(min(p.Y.Min, slices.Min(ys)))))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(max(p.Y.Max, slices.Max(ys))*1.01)))
	return nil
}
