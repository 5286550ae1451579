module launch

go 1.26.0

require (
	golang.org/x/sys v0.49.0 // indirect
	gopkg.in/ini.v1 v1.67.3
)
