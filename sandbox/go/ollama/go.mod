module homelab.example/sandbox/ollama

go 1.26.0

require (
	github.com/gen2brain/raylib-go/raylib v0.55.1
	github.com/nlohmann/json v3.11.3+incompatible
	github.com/ollama/ollama v0.24.0
)
