// Renders Go templates over Ollama's data model: {"templates": [...], "talks": [[{"role", "content"}]]} on stdin,
// [[rendered text per talk] per template] on stdout.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var given struct {
		Templates []string
		Talks     [][]message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		panic(err)
	}
	var all [][]string
	for _, text := range given.Templates {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(text))
		var rendered []string
		for _, talk := range given.Talks {
			var system []string
			for _, m := range talk {
				if m.Role == "system" {
					system = append(system, m.Content)
				}
			}
			var out strings.Builder
			values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": talk, "Response": ""}
			if err := parsed.Execute(&out, values); err != nil {
				panic(err)
			}
			rendered = append(rendered, out.String())
		}
		all = append(all, rendered)
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		panic(err)
	}
}
