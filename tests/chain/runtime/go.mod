module shunt-cni.io/tests/runtime

go 1.24

require github.com/containernetworking/cni v1.3.0
