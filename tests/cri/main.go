// cri SOCKET METHOD SECONDS: one call of the Container Runtime Interface. The request is JSON on standard input, the answer JSON on
// standard output. When the runtime refuses, its status is on standard error and the exit code is 1.
//
// Built with the module of containerd whose version is pinned, which brings all this needs.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func stop(code int, format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(code)
}

func main() {
	if len(os.Args) != 4 {
		stop(2, "cri SOCKET METHOD SECONDS")
	}
	socket, name := os.Args[1], os.Args[2]
	seconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		stop(2, "%v", err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"))
	if err != nil {
		stop(2, "%v", err)
	}
	method := reflect.ValueOf(runtime.NewRuntimeServiceClient(conn)).MethodByName(name)
	if !method.IsValid() {
		method = reflect.ValueOf(runtime.NewImageServiceClient(conn)).MethodByName(name)
	}
	if !method.IsValid() {
		stop(2, "no method %s", name)
	}
	request := reflect.New(method.Type().In(1).Elem())
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(text, request.Interface())
	}
	if err != nil {
		stop(2, "%s: %v", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second)
	defer cancel()
	said := method.Call([]reflect.Value{reflect.ValueOf(ctx), request})
	if err, failed := said[1].Interface().(error); failed {
		stop(1, "%s: %s", status.Code(err), status.Convert(err).Message())
	}
	var answer any = said[0].Interface()
	if done, is := answer.(*runtime.ExecSyncResponse); is {
		// Bytes would come out in base64.
		answer = map[string]any{"stdout": string(done.Stdout), "stderr": string(done.Stderr), "exit_code": done.ExitCode}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		stop(2, "%s: %v", name, err)
	}
}
