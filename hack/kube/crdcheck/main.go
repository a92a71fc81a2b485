// Command crdcheck asks Kubernetes' own validation whether it would create the CustomResourceDefinitions in files: structural schemas, and CEL rules
// with what they are estimated to cost. It prints what is wrong, and ends with 1 if anything is.
package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: crdcheck FILE…")
		os.Exit(2)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	wrong := false
	for _, file := range os.Args[1:] {
		problems, err := check(scheme, file)
		if err != nil {
			problems = []string{err.Error()}
		}
		for _, problem := range problems {
			fmt.Printf("%s: %s\n", file, problem)
			wrong = true
		}
	}
	if wrong {
		os.Exit(1)
	}
}

// check does what an API server does with a file's definition before it stores it.
func check(scheme *runtime.Scheme, file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	object, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		return nil, err
	}
	definition, ok := object.(*v1.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("a %T is no CustomResourceDefinition of apiextensions.k8s.io/v1", object)
	}
	scheme.Default(definition)
	internal := &apiextensions.CustomResourceDefinition{}
	if err := scheme.Convert(definition, internal, nil); err != nil {
		return nil, err
	}
	var problems []string
	for _, problem := range validation.ValidateCustomResourceDefinition(context.Background(), internal) {
		problems = append(problems, problem.Error())
	}
	return problems, nil
}
