package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
)

// grpc-go with its default settings and one unary method, described by hand:
// the message is bytes, which spares grpc the cost of protobuf.

// bytesCodec passes *[]byte through.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "bytes" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	p, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("bytes codec: %T", v)
	}
	return *p, nil
}

func (bytesCodec) Unmarshal(b []byte, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("bytes codec: %T", v)
	}
	*p = append((*p)[:0], b...) // b is grpc's again afterwards
	return nil
}

func init() { encoding.RegisterCodec(bytesCodec{}) }

const echoMethod = "/bench.Echo/Echo"

// echoService describes the service to grpc.
var echoService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in []byte
			if err := dec(&in); err != nil {
				return nil, err
			}
			return &in, nil
		},
	}},
}

func serveGRPC(l net.Listener, conf *tls.Config) {
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(conf)), grpc.ForceServerCodec(bytesCodec{}))
	s.RegisterService(&echoService, nil)
	s.Serve(l)
}

type grpcClient struct{ c *grpc.ClientConn }

func dialGRPC(addr string, conf *tls.Config) (*grpcClient, error) {
	c, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		return nil, err
	}
	return &grpcClient{c}, nil
}

// Echo sends p and reads the answer into into.
func (g *grpcClient) Echo(p, into []byte) error {
	out := into[:0]
	if err := g.c.Invoke(context.Background(), echoMethod, &p, &out); err != nil {
		return err
	}
	if len(out) != len(into) {
		return fmt.Errorf("answer of %d bytes", len(out))
	}
	return nil
}

// Close ends the connection.
func (g *grpcClient) Close() error { return g.c.Close() }
