// Package e2ee makes sealed rooms: what is said in them is encrypted from device
// to device and signed, and the server, which carries and keeps it all, is not
// trusted with anything but order.
package e2ee
