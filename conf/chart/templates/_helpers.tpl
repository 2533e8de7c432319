{{- define "shunt.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* Shortened so that "-uninstall" and a hash still fit into 63 characters. */}}
{{- define "shunt.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains (include "shunt.name" .) .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "shunt.name" .) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "shunt.labels" -}}
{{ include "shunt.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "shunt.selector" -}}
app.kubernetes.io/name: {{ include "shunt.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* With its line end, at the depth of metadata's keys. */}}
{{- define "shunt.annotations" -}}
{{- with .Values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- /* The row of platforms.json, with what the values replace; as JSON. */}}
{{- define "shunt.platform" -}}
{{- $table := .Files.Get "platforms.json" | fromJson }}
{{- if not (hasKey $table .Values.platform) }}
{{- fail (printf "platform %q is not known; it is one of: %s" .Values.platform (keys $table | sortAlpha | join " ")) }}
{{- end }}
{{- $row := deepCopy (get $table .Values.platform) }}
{{- with .Values.paths.confDir }}{{ $_ := set $row "confDir" . }}{{ end }}
{{- with .Values.paths.binDir }}{{ $_ := set $row "binDir" . }}{{ end }}
{{- $row | toJson }}
{{- end }}

{{- define "shunt.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "shunt.entry" -}}
{{ toPrettyJson .Values.entry }}
{{- end }}

{{- /* The name changes with the content. So a changed entry is a rollout: a few nodes at a time, and it stops where a node does not
become ready with it. Under one name the kubelet would put it on all nodes within a minute, ready or not. */}}
{{- define "shunt.entryName" -}}
{{ include "shunt.fullname" . }}-entry-{{ include "shunt.entry" . | sha256sum | trunc 10 }}
{{- end }}

{{- define "shunt.uninstallArgs" -}}
[uninstall, {{ ternary "--detach" "--keep-pods" (eq .Values.uninstall.pods "detach") }}, --stay]
{{- end }}

{{- /* A DaemonSet's spec. Takes root, component, args (YAML), listen (address) and port. */}}
{{- define "shunt.daemonset" -}}
{{- $root := .root }}
{{- $values := $root.Values }}
{{- $platform := include "shunt.platform" $root | fromJson }}
{{- $stateDir := $values.entry.stateDir | default "/run/shunt" -}}
selector:
  matchLabels:
    {{- include "shunt.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
revisionHistoryLimit: 3
updateStrategy:
  type: RollingUpdate
  rollingUpdate:
    # No surge: two pods of one node would want one port and one lock. And none is needed: a pod that stops leaves the list and the
    # plugin in place, so while a node has no installer its pods are intercepted as before.
    maxSurge: 0
    maxUnavailable: {{ .maxUnavailable | toJson }}
template:
  metadata:
    labels:
      {{- include "shunt.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
      {{- with $values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    annotations:
      kubectl.kubernetes.io/default-container: installer
      {{- if and $values.appArmor (semverCompare "<1.30.0-0" $root.Capabilities.KubeVersion.Version) }}
      # The field below is not known before 1.30.
      container.apparmor.security.beta.kubernetes.io/installer: {{ $values.appArmor | lower }}
      {{- end }}
      {{- with $values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    serviceAccountName: {{ include "shunt.fullname" $root }}
    # Nothing here asks the API server, and no token lies on the node.
    automountServiceAccountToken: false
    enableServiceLinks: false
    # It must run before pods have a network.
    hostNetwork: true
    dnsPolicy: Default
    priorityClassName: {{ $values.priorityClassName }}
    terminationGracePeriodSeconds: 10
    {{- with $values.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    nodeSelector:
      kubernetes.io/os: linux
      {{- with $values.nodeSelector }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $values.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    containers:
      - name: installer
        image: {{ include "shunt.image" $root | quote }}
        imagePullPolicy: {{ $values.image.pullPolicy }}
        args: {{ .args }}
        env:
          - name: SHUNT_HOST_ROOT
            value: /host
          # The plugin is run as the runtime runs it: among the host's own files and cgroups.
          - name: SHUNT_HOST_NS
            value: /host/proc/1/ns
          - name: SHUNT_CONF_DIR
            value: {{ $platform.confDir }}
          - name: SHUNT_BIN_DIR
            value: {{ $platform.binDir }}
          # Both as in the entry.
          - name: SHUNT_STATE_DIR
            value: {{ $stateDir }}
          - name: SHUNT_BPF_DIR
            value: {{ $values.entry.bpfDir | default "/sys/fs/bpf/shunt" }}
          - name: SHUNT_MODE
            value: {{ $values.mode }}
          {{- with $values.primary }}
          - name: SHUNT_PRIMARY
            value: {{ . | quote }}
          {{- end }}
          - name: SHUNT_ENTRY
            value: /etc/shunt/entry.json
          - name: SHUNT_LISTEN
            value: {{ printf "%s:%d" .listen (int .port) | quote }}
          - name: SHUNT_LOG_LEVEL
            value: {{ $values.logLevel }}
        ports:
          # Of the node. Named also when it is the loopback's, so that the scheduler knows it is taken.
          - name: http
            containerPort: {{ .port }}
            hostPort: {{ .port }}
            protocol: TCP
        startupProbe:
          httpGet: {host: 127.0.0.1, port: {{ .port }}, path: /livez}
          periodSeconds: 1
          failureThreshold: 60
        livenessProbe:
          httpGet: {host: 127.0.0.1, port: {{ .port }}, path: /livez}
          periodSeconds: 10
          timeoutSeconds: 5
          failureThreshold: 6
        readinessProbe:
          httpGet: {host: 127.0.0.1, port: {{ .port }}, path: /readyz}
          periodSeconds: 5
          timeoutSeconds: 5
        resources:
          requests:
            cpu: {{ $values.resources.cpu | quote }}
            memory: {{ $values.resources.memory | quote }}
          limits:
            cpu: {{ $values.resources.cpu | quote }}
            memory: {{ $values.resources.memory | quote }}
        securityContext:
          privileged: false
          # The API server refuses this beside a capability that is spelled CAP_SYS_ADMIN. Spelled without the prefix it takes it, and
          # the kubelet sets no_new_privs, under which a set-uid file gives nothing. The plugin and iptables work so.
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          runAsUser: 0
          runAsGroup: 0
          runAsNonRoot: false
          {{- with $values.seccomp }}
          seccompProfile:
            type: {{ . }}
          {{- end }}
          {{- if and $values.appArmor (semverCompare ">=1.30.0-0" $root.Capabilities.KubeVersion.Version) }}
          appArmorProfile:
            type: {{ $values.appArmor }}
          {{- end }}
          {{- if $values.seLinuxOptions }}
          seLinuxOptions:
            {{- toYaml $values.seLinuxOptions | nindent 12 }}
          {{- else if $platform.seLinuxType }}
          seLinuxOptions:
            type: {{ $platform.seLinuxType }}
          {{- end }}
          capabilities:
            drop: [ALL]
            # What is not here is not needed. BPF and PERFMON are not: SYS_ADMIN holds them.
            add:
              # Enter the host's mount and cgroup namespaces, make a network namespace to probe in, load programs.
              - SYS_ADMIN
              # Enter a mount namespace: it changes the root.
              - SYS_CHROOT
              # Open /proc/1/ns: PID 1 has more capabilities than this container.
              - SYS_PTRACE
              # Set up the probe's network, write iptables rules.
              - NET_ADMIN
              # iptables-legacy reads and writes rules through a raw socket.
              - NET_RAW
              # The probe connects as an app and as the proxy. Without it eBPF looks broken and the node takes iptables.
              - SETUID
              # Write to host directories that belong to somebody else.
              - DAC_OVERRIDE
              # Keep owner and mode of the primary's list, in mode chained.
              - CHOWN
              - FOWNER
        volumeMounts:
          - name: conf-dir
            mountPath: /host{{ $platform.confDir }}
          - name: bin-dir
            mountPath: /host{{ $platform.binDir }}
          - name: state-dir
            mountPath: /host{{ $stateDir }}
          - name: proc
            mountPath: /host/proc
            readOnly: true
          - name: entry
            mountPath: /etc/shunt
            readOnly: true
    volumes:
      # They are there wherever a runtime is: a wrong path shows as an event, not as a directory that nobody reads.
      - name: conf-dir
        hostPath:
          path: {{ $platform.confDir }}
          type: Directory
      - name: bin-dir
        hostPath:
          path: {{ $platform.binDir }}
          type: Directory
      # Gone after a reboot. The installers' lock is in it.
      - name: state-dir
        hostPath:
          path: {{ $stateDir }}
          type: DirectoryOrCreate
      - name: proc
        hostPath:
          path: /proc
          type: Directory
      - name: entry
        configMap:
          name: {{ include "shunt.entryName" $root }}
{{- end }}

{{- /* A pod's spec that waits for a DaemonSet. Takes root, daemonset and seconds. */}}
{{- define "shunt.waiter" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "shunt.fullname" .root }}-wait
automountServiceAccountToken: true
enableServiceLinks: false
restartPolicy: Never
# It may be needed just when pods get no network.
hostNetwork: true
dnsPolicy: Default
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
{{- with $values.uninstall.hook.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: wait
    image: {{ include "shunt.image" .root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: [wait, --daemonset, {{ .root.Release.Namespace }}/{{ .daemonset }}, --timeout, {{ .seconds }}s]
    env:
      - name: SHUNT_LOG_LEVEL
        value: {{ $values.logLevel }}
    resources:
      requests: {cpu: 50m, memory: 32Mi}
      limits: {cpu: 50m, memory: 32Mi}
    securityContext:
      privileged: false
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      runAsUser: 65532
      runAsGroup: 65532
      runAsNonRoot: true
      {{- with $values.seccomp }}
      seccompProfile:
        type: {{ . }}
      {{- end }}
      capabilities:
        drop: [ALL]
{{- end }}
