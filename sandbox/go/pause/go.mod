module homelab.example/sandbox/pause

go 1.26.0
