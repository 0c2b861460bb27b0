package chatui

import (
	"hash/fnv"

	"charm.land/lipgloss/v2"
)

// Styles use the terminal's own colours where they mean something, so that they
// suit its background. Bubble Tea leaves colours out where NO_COLOR says so;
// nothing is told by colour alone.
var (
	styleHeader   = lipgloss.NewStyle().Reverse(true)
	styleStatus   = lipgloss.NewStyle().Reverse(true)
	styleDim      = lipgloss.NewStyle().Faint(true)
	styleUnread   = lipgloss.NewStyle().Bold(true)
	styleSelected = lipgloss.NewStyle().Reverse(true)
	styleWarning  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Yellow)
	styleError    = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)
	styleOnline   = lipgloss.NewStyle().Foreground(lipgloss.Green)
	styleAway     = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	styleNew      = lipgloss.NewStyle().Foreground(lipgloss.Red)
)

// nameColours can be read on black and on white.
var nameColours = []string{"31", "32", "64", "69", "97", "130", "133", "136", "166", "168", "172", "35"}

// nameStyle returns the style of a user's name: always the same one.
func nameStyle(user string) lipgloss.Style {
	h := fnv.New32a()
	h.Write([]byte(user))
	colour := nameColours[h.Sum32()%uint32(len(nameColours))]
	return lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color(colour))
}
