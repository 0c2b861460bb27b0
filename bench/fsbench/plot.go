package main

import (
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// colors of peers, in the order of the table.
var colors = []color.Color{
	color.RGBA{0x99, 0x99, 0x99, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	color.RGBA{0x00, 0x9e, 0x73, 0xff}, color.RGBA{0x00, 0x00, 0x00, 0xff},
}

// plot draws how fast each peer is, sshfs being 1: one line per row and link, one
// mark per peer.
func (r *Report) plot(name string) error {
	type line struct{ link, row string }
	var lines []line
	for _, link := range r.links() {
		for _, row := range distinct(r.over(link), func(f *Figure) string { return f.Row }) {
			if r.find(link, row, peerSSHFS) != nil {
				lines = append(lines, line{link, row})
			}
		}
	}
	slices.Reverse(lines) // the first one on top
	p := plot.New()
	p.Title.Text = "Speed beside sshfs (1): further to the right is faster"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	var names []string
	for _, l := range lines {
		names = append(names, l.row+", "+l.link)
	}
	p.NominalY(names...)
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	low, high := 1., 1.
	for i, peer := range distinct(r.Figures, func(f *Figure) string { return f.Peer }) {
		var points plotter.XYs
		for y, l := range lines {
			if f := r.find(l.link, l.row, peer); f != nil {
				x := f.speed(r.find(l.link, l.row, peerSSHFS))
				low, high = min(low, x), max(high, x)
				points = append(points, plotter.XY{X: x, Y: float64(y)})
			}
		}
		if len(points) == 0 {
			continue
		}
		marks, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		marks.Color, marks.Shape, marks.Radius = colors[i%len(colors)], draw.CircleGlyph{}, vg.Points(3.5)
		p.Add(marks)
		p.Legend.Add(peer, marks)
	}
	p.X.Min, p.X.Max = decade(low, math.Floor), decade(high*1.01, math.Ceil)
	return p.Save(22*vg.Centimeter, vg.Length(len(lines)+6)*0.55*vg.Centimeter, name)
}

// decade returns the power of ten below or above v.
func decade(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}
