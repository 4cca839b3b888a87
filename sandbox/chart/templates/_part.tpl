{{/* Metadata of an object of a part: the release, the part, and labels of its own. */}}
{{- define "metadata" }}
{{- $root := index . 0 }}{{ $part := include "part" . | fromYaml }}
{{- dict "name" (printf "%s-%s" $root.Release.Name (index . 1)) "namespace" $root.Release.Namespace "labels" (merge (index . 2) $part.labels) | toJson }}
{{- end }}

{{/* What parts.yaml says of a part. */}}
{{- define "part" }}
{{- $root := index . 0 }}
{{- index (tpl ($root.Files.Get "parts.yaml") $root | fromYaml).parts (index . 1) | toJson }}
{{- end }}
