// Command cri speaks the kubelet's side of the container runtime interface, as
// much of it as the checks of internal/itest/engines need:
//
//	cri pod NAME [host|own]            → the pod's id
//	cri create POD NAME CMD…           → the container's id
//	cri start|stop|remove ID
//	cri stop-pod|remove-pod ID
//	cri exec ID CMD…                   exit status of CMD
//	cri state ID                       → CREATED, RUNNING, EXITED N, UNKNOWN
//	cri await ID SECONDS               until it has ended
//	cri stats ID                       → memory and cpu
//	cri update ID MEMORY
//	cri list | pods | images | version
//
// It is a module of its own, since the interface comes with gRPC. The socket is
// $CRI_SOCKET; logs go to $CRI_LOGS/POD/NAME.log.
//
// Room: test.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const image = "localhost/bb:latest"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "cri: want a verb")
		os.Exit(2)
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	code, err := run(ctx, os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "cri: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(ctx context.Context, verb string, args []string) (int, error) {
	conn, err := grpc.NewClient("unix://"+os.Getenv("CRI_SOCKET"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 1, err
	}
	defer conn.Close()
	rt, im := cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	need := map[string]int{"pod": 1, "create": 2, "start": 1, "stop": 1, "remove": 1, "stop-pod": 1, "remove-pod": 1,
		"exec": 2, "state": 1, "await": 2, "stats": 1, "update": 2, "list": 0, "pods": 0, "images": 0, "version": 0}
	if n, ok := need[verb]; !ok || len(args) < n {
		return 2, errors.New("no such verb, or too few words")
	}
	switch verb {
	case "version":
		r, err := rt.Version(ctx, &cri.VersionRequest{})
		if err != nil {
			return 1, err
		}
		fmt.Println(r.RuntimeName, r.RuntimeApiVersion)
	case "images":
		r, err := im.ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil {
			return 1, err
		}
		for _, i := range r.Images {
			fmt.Println(i.RepoTags)
		}
	case "pod":
		c := podConfig(args[0], len(args) > 1 && args[1] == "own")
		if err := os.MkdirAll(c.LogDirectory, 0o755); err != nil {
			return 1, err
		}
		r, err := rt.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: c})
		if err != nil {
			return 1, err
		}
		fmt.Println(r.PodSandboxId)
	case "create":
		pod, err := rt.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: args[0]})
		if err != nil {
			return 1, err
		}
		own := pod.Status.Linux.Namespaces.Options.Network == cri.NamespaceMode_POD
		c := &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: args[1]},
			Image:    &cri.ImageSpec{Image: image},
			Command:  args[2:],
			Envs:     []*cri.KeyValue{{Key: "FROM", Value: "cri"}},
			LogPath:  args[1] + ".log",
			Labels:   map[string]string{"check": args[1]},
			Linux: &cri.LinuxContainerConfig{
				Resources:       &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 200},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: namespaces(own)},
			},
		}
		if user := os.Getenv("CRI_USER"); user != "" {
			id, err := strconv.ParseInt(user, 10, 64)
			if err != nil {
				return 1, err
			}
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: id}
		}
		c.Linux.SecurityContext.ReadonlyRootfs = os.Getenv("CRI_READ_ONLY") != ""
		c.Linux.SecurityContext.Privileged = os.Getenv("CRI_PRIVILEGED") != ""
		if mount := os.Getenv("CRI_MOUNT"); mount != "" {
			c.Mounts = []*cri.Mount{{HostPath: mount, ContainerPath: "/mnt"}}
		}
		r, err := rt.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: args[0], Config: c, SandboxConfig: podConfig(pod.Status.Metadata.Name, own)})
		if err != nil {
			return 1, err
		}
		fmt.Println(r.ContainerId)
	case "start":
		_, err := rt.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: args[0]})
		return 0, err
	case "stop":
		_, err := rt.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: args[0], Timeout: 1})
		return 0, err
	case "remove":
		_, err := rt.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: args[0]})
		return 0, err
	case "stop-pod":
		_, err := rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: args[0]})
		return 0, err
	case "remove-pod":
		_, err := rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: args[0]})
		return 0, err
	case "exec":
		r, err := rt.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: args[0], Cmd: args[1:], Timeout: 20})
		if err != nil {
			return 1, err
		}
		os.Stdout.Write(r.Stdout)
		os.Stderr.Write(r.Stderr)
		return int(r.ExitCode), nil
	case "state", "await":
		most := 0
		if verb == "await" {
			if most, err = strconv.Atoi(args[1]); err != nil {
				return 1, err
			}
		}
		for end := time.Now().Add(time.Duration(most) * time.Second); ; time.Sleep(100 * time.Millisecond) {
			r, err := rt.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: args[0]})
			if err != nil {
				return 1, err
			}
			s := r.Status
			if s.State == cri.ContainerState_CONTAINER_EXITED {
				fmt.Println("EXITED", s.ExitCode, s.Reason)
				return 0, nil
			}
			if time.Now().After(end) {
				fmt.Println(s.State.String()[len("CONTAINER_"):])
				return 0, nil
			}
		}
	case "stats":
		r, err := rt.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: args[0]})
		if err != nil {
			return 1, err
		}
		fmt.Println("memory", r.Stats.GetMemory().GetWorkingSetBytes().GetValue() > 0, "cpu", r.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0)
	case "update":
		limit, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return 1, err
		}
		_, err = rt.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: args[0],
			Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: limit}})
		return 0, err
	case "list":
		r, err := rt.ListContainers(ctx, &cri.ListContainersRequest{})
		if err != nil {
			return 1, err
		}
		for _, c := range r.Containers {
			fmt.Println(c.Metadata.Name, c.State.String()[len("CONTAINER_"):])
		}
	case "pods":
		r, err := rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return 1, err
		}
		for _, p := range r.Items {
			fmt.Println(p.Metadata.Name, p.State.String()[len("SANDBOX_"):])
		}
	}
	return 0, nil
}

// podConfig is made again for each container, as the kubelet does.
func podConfig(name string, own bool) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "checks"},
		Hostname:     map[bool]string{true: name}[own],
		LogDirectory: os.Getenv("CRI_LOGS") + "/" + name,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/checks",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(own)},
			Sysctls:         map[bool]map[string]string{true: {"net.ipv4.ip_unprivileged_port_start": "80"}}[own],
		},
	}
}

func namespaces(own bool) *cri.NamespaceOption {
	n := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}
	if own {
		n.Network = cri.NamespaceMode_POD
	}
	return n
}
